"""CLIP: configurations, towers, weights. All but `config.py` and `pickles.py` need torch."""
