"""Text to sequences: reading, validating, tokenising and packing documents."""
