"""The training loop and what serves it."""
