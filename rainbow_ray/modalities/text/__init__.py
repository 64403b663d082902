"""Text: tokens, encoders and bag of words."""
