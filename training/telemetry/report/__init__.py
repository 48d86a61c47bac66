"""Reports on one or more runs: a self-contained HTML page and PNG plots from their journals."""
