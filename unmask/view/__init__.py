"""A decode as a picture."""
