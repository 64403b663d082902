"""Argument parsers and exit codes of the commands."""
