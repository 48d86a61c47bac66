"""Converts raw Criteo days (TSV or Parquet) to 160-byte records, dictionaries and a report.

`dataset.preprocessing.pipeline.run` runs the complete job; `preprocess.py` is its command line.
"""
