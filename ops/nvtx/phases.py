"""The names of a step's phases, as tools and `--step_breakdown` show them."""

READ = "read"
EXCHANGE_IDS = "exchange ids"
LOOKUP = "lookup"
EXCHANGE_VECTORS = "exchange vectors"
DENSE = "dense forward and backward"
AVERAGE = "average dense gradients"
UPDATE_DENSE = "update dense"
EXCHANGE_GRADIENTS = "exchange gradients"
UPDATE_ROWS = "update rows"

# SparseOperationKit does these in one go.
LOOKUP_AND_EXCHANGE = "lookup and exchange vectors"
EXCHANGE_AND_UPDATE = "exchange gradients and update rows"

# Of evaluation and inference.
DENSE_FORWARD = "dense forward"
