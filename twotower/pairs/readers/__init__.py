"""Readers of pages, archives, feeds and lists: their bytes become candidates."""
