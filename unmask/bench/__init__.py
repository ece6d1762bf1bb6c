"""Benchmarks of speed; what is compared is measured in one run, in turns."""
