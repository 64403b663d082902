"""The configuration: typed schema, sources, and former and unused keys."""
