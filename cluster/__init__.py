"""Rented pods of RunPod as one Ray cluster, and back: `python -m cluster`."""
