"""Numbers about any encoder, with intervals. No torch of its own."""
