"""The Triton kernels, one file for each of the same name above; only a seam imports them."""
