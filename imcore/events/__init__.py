"""The log: facts, the one way to append them, and the ways to read them."""
