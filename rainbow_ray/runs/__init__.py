"""Training runs and sweeps as commands run them, and their directories."""
