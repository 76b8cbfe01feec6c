"""Tags of pictures: vocabularies, probabilities, corrections and exports."""
