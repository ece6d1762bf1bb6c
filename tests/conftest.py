"""Every test runs on one thread: toys are small, and threads that wait for each other are what makes a suite slow.

A busy machine is nobody's failure either, so examples have no deadline.
"""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("unmask", deadline=None)
settings.load_profile("unmask")
