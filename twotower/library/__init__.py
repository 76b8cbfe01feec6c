"""A person's pictures: found, indexed, searched in words. No torch."""
