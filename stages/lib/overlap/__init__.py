"""What documents have in common with each other."""
