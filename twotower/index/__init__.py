"""Indexes of pictures: scan, read, embed, keep, and find by vector."""
