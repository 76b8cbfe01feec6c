"""Training: from image-text pairs to weights."""
