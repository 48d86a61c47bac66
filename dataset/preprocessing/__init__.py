"""From raw Criteo days (TSV or Parquet) to raw 160-byte records, dictionaries and a report.

`dataset.preprocessing.pipeline.run` is the whole job; `preprocess.py` is its command line.
"""
