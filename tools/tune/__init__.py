"""Searches for better settings within a budget of time."""
