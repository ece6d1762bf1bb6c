"""Measuring speed, A against B in one run."""
