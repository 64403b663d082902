"""Metrics with intervals, comparison with baselines, and the files of results."""
