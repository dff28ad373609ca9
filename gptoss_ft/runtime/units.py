"""Units that sizes are told in."""

GIB = 1024**3
