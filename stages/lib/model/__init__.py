"""A GPT-2 in memory: loaded, adapted, scored, made to write."""
