"""The connection server: carriers, connections, the hub that routes, and the tasks around them."""
