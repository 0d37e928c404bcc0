"""One file that carries everything to a machine without a network."""
