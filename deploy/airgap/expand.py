"""Unpacks a Zstandard-compressed tar from standard input: `python3 expand.py FOLDER`."""

import sys
import tarfile

import zstandard

stream = zstandard.ZstdDecompressor().stream_reader(sys.stdin.buffer)
with tarfile.open(fileobj=stream, mode="r|") as archive:
    # tarfile has filters since Python 3.11.4. The checksums of the input were verified.
    if hasattr(tarfile, "tar_filter"):
        archive.extractall(sys.argv[1], filter="tar")
    else:
        archive.extractall(sys.argv[1])
