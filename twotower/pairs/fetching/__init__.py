"""Candidates to shards: polite requests, consent, the ledger and removals."""
