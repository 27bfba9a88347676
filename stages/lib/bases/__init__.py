"""A published GPT-2, whatever form its files have, into the one form that the pipeline keeps."""
