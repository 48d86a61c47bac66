"""Model-parallel embedding: which rank holds which rows, and how vectors reach their samples."""
