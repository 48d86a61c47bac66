"""Python wrappers, at the original package's import paths."""
