"""Pictures and words to arrays."""
