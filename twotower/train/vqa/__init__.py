"""Training of heads that answer questions about pictures."""
