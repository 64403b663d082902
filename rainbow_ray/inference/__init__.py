"""Prediction with trained models, for texts, songs, segments and tables of any size."""
