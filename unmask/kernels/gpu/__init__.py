"""The Triton kernels, one file per seam of the same name in `unmask.kernels`, which alone imports it."""
