"""Command lines: arguments of every command, and how errors end it."""
