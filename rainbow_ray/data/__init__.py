"""Tables of songs: cells, examples, splits, datasets and segments."""
