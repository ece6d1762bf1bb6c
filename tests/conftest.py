"""Every test runs on one thread: toys are small, and threads that wait for each other are what makes a suite slow."""

import torch

torch.set_num_threads(1)
