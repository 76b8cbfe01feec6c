"""HTML pages, each complete in one file."""
