"""Preflight checks of data, model and environment, with estimates of memory, time and cost."""
