"""A trained model behind HTTP: what is asked and answered, who may ask, and how it runs on Ray Serve."""
