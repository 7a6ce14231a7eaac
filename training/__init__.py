"""The headless side: the command line now, teaching and training on it."""
