"""Measurements of speed and quality; run from a checkout with `pip install -e ".[dev]"`."""
