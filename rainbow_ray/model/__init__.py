"""The model: encoders, pooling, the head."""
