"""Loops that join methods, contexts and models."""
