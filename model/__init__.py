"""DLRM: its dense part, its embedding and the cost model that predicts a step's time."""
