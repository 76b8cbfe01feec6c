"""Search of an index: a query to ranked hits with probabilities."""
