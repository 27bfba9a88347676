"""A GPT-2 in memory: loaded, scored, made to write."""
