"""What a person reads: the report's words, pictures and advice."""
