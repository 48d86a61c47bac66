"""Whole training steps of this project and of its peers, in turn, beside the machine's limit."""
