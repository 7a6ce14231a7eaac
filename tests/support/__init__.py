"""What several tests need: real inputs or a clean skip, and tiny tokenizers trained on the spot."""
