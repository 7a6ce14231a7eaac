"""The textbook formulations that the fast ones are compared with."""
