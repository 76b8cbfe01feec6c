"""The HTTP API of a library, a file for each family of endpoints; docs/server-library.md."""
