"""What has nothing to do with texts or models: the terminal, files, settings, processes."""
