"""MIDI: files, windows of notes and the encoder."""
