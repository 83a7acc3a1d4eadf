"""A running server and clients that break every rule: what was promised for it happens, and nobody else notices."""
