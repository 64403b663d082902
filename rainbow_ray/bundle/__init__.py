"""The saved model of a run: its files, their integrity, and the model card."""
