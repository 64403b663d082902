"""Generators of the built-in demo songs."""
