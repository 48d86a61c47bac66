"""Unpacks a Zstandard tar from standard input into a folder: `python3 expand.py FOLDER`."""

import sys
import tarfile

import zstandard

stream = zstandard.ZstdDecompressor().stream_reader(sys.stdin.buffer)
with tarfile.open(fileobj=stream, mode="r|") as archive:
    # Python has filters since 3.11.4; what is unpacked here has had its checksums compared.
    if hasattr(tarfile, "tar_filter"):
        archive.extractall(sys.argv[1], filter="tar")
    else:
        archive.extractall(sys.argv[1])
