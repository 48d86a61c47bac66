"""Drop-in for NVIDIA's package of this name, on this project's dot interaction op."""
