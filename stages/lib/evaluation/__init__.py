"""What base and tuned model write, and how they compare."""
