"""Tags of pictures: a vocabulary, its probabilities, and what people corrected."""
