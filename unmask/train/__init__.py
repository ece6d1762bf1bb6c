"""Training: data, noise, loss, the training loop, and what is made with it."""
