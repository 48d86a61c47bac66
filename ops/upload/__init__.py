"""Uploads a batch to the device in one copy, while the device computes the batch before it."""

from ops.upload.native import receive, upload

__all__ = ["receive", "upload"]
