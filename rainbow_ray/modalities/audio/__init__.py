"""Audio: files, windows and encoders."""
