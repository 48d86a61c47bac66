"""The op, at the original package's import path."""
