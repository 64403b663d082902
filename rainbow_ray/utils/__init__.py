"""Errors, files, paths, console output and signals; imports no other package of rainbow_ray."""
