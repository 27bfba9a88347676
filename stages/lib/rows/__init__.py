"""Tokens: texts into ids, ids into packed rows, rows into batches."""
