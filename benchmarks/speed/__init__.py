"""Time and memory, beside peers on the same machine."""
