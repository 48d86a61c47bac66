"""Datasets on disk, and how they become batches.

`open_dataset`, `open_split` and `open_train` describe and check a dataset without TensorFlow;
`dataset.reader` turns a description into batches.
"""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m runs one of this package's programs
    program_start.begin()

from dataset.columns import Column, DatasetDescription, Segment
from dataset.errors import DatasetError
from dataset.opening import open_dataset, open_split, open_train

__all__ = [
    "Column",
    "DatasetDescription",
    "DatasetError",
    "Segment",
    "open_dataset",
    "open_split",
    "open_train",
]
