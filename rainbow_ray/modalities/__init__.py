"""Text, audio and MIDI, and the registry of modalities."""
