"""From scores to probabilities: curves, what they are fitted on, and their JSON."""
