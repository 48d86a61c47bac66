"""Scores of an evaluation: exact and binned AUC, and a sanity check of the AUC."""
