"""Calibration of scores and decision thresholds."""
