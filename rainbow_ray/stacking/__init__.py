"""Stacked ensembles: a neural network and simple models, combined by weights from out-of-fold scores."""
