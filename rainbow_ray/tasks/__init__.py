"""Prediction tasks and their registry."""
