"""Models of the Hugging Face Hub, fetched into its cache."""
