"""The recipes of the bundled models; run from a checkout."""
