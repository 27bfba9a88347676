"""Writes a model in the forms that other programs read."""
