"""Helpers that every package may use and that use no other package of rainbow_ray."""
