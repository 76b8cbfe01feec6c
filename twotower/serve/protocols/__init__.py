"""Protocols of other servers, one file each."""
