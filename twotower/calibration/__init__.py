"""Curves from scores to probabilities, their files, and how they are fitted."""
