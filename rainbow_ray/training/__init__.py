"""The loop, which knows nothing of Ray, and what runs it in workers: folds and the trainer."""
