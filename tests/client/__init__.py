"""The Python SDK: its core against the server's own parts, and the whole of it against real servers."""
