"""Weights to vectors, fast, without torch unless asked."""
