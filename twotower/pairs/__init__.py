"""Image-text pairs on disk: read, write and check. No torch."""
