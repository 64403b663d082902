"""One fit: trainer, train step, evaluator, checkpoints and loggers."""
