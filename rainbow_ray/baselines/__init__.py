"""Baselines on the folds of a run, and the registry of baselines."""
