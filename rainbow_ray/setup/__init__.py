"""From a config to a plan, and from rows to prepared data."""
