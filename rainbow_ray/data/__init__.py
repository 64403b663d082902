"""What the songs are: the manifest, the split, the stream, and the built-in demo songs."""
