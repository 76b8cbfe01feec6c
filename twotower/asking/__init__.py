"""Questions about pictures: by an encoder, by a trained head, by a server, and about a library."""
