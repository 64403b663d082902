"""Sweeps: search space, trials, searcher, and correction for selection."""
