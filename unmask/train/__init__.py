"""Making models: noise, loss, data and loops."""
