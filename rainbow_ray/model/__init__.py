"""The model: encoders, fusion, temporal context and head, with caches of frozen features."""
