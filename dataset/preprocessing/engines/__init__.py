"""SQL engines behind one small interface: DuckDB embedded in this process, Spark on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataset.preprocessing.engines.interface import Engine
    from dataset.preprocessing.options import Options


def open_engine(options: Options, scratch: str) -> Engine:
    """Returns the engine that `options.engine` names.

    Args:
        options: of the run.
        scratch: folder for temporary files.

    Raises:
        EngineError: the engine is not installed, or does not start.
    """
    if options.engine == "duckdb":
        from dataset.preprocessing.engines.duckdb_engine import DuckDBEngine

        return DuckDBEngine(options, scratch)
    from dataset.preprocessing.engines.spark_engine import SparkEngine

    return SparkEngine(options, scratch)
