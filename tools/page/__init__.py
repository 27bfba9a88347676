"""A page to try the model on, in a browser."""
