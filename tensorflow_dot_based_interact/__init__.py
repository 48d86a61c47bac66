"""Drop-in replacement for NVIDIA's package of this name, using this project's op."""
