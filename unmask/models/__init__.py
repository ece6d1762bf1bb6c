"""Checkpoints as denoisers."""
