"""The HTTP server: models and libraries for programs, people and assistants."""
