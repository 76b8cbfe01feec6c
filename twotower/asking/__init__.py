"""Questions about pictures, answered: zero-shot, by a trained head, by a server, of a library."""
