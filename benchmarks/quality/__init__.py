"""Accuracy of answers, tags, searches and models, with intervals."""
