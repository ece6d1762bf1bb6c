"""Measuring: the same problems, stop rule and token count for every method."""
