"""Numbers about a model, as pure functions of arrays. No torch."""
