"""Measurements: the project's parts beside the machine's limits and beside their alternatives."""
