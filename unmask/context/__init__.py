"""What each forward may see and must recompute, and the memory that holds it."""
