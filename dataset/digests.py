"""Digests of a split's files, by which `dataset.validate` finds any change to them.

They tell accidents (a flipped bit, a lost page, files swapped), not forgeries: XXH3 is no
cryptographic hash. It takes an eighth of the processor time of SHA-256, which was used before and
is still read.
"""

import hashlib

import xxhash

from dataset.errors import DatasetError

#: What is written.
WRITTEN = "xxh3-128-blocks"
#: {name in metadata.json: hash}.
_HASHES = {WRITTEN: xxhash.xxh3_128, "sha256-blocks": hashlib.sha256}


class BlockDigest:
    """A hash over the hashes of a file's successive blocks of `CHUNK_SAMPLES` samples.

    Blocks may be added in any order, from several threads, so that they can be worked on side by
    side.
    """

    def __init__(self, blocks, name=WRITTEN):
        """Takes the number of blocks and the digest's name (`digest_name`)."""
        self._name, self._hash = name, _HASHES[name]
        self._digests = [b""] * blocks

    def add(self, block, data):
        """Adds the bytes of one block, a contiguous array."""
        block_hash = self._hash()
        # Other threads go on meanwhile; a hash of all in one call would hold them up.
        block_hash.update(data)
        self._digests[block] = block_hash.digest()

    def text(self):
        """Returns the digest as it stands in metadata.json."""
        return f"{self._name}:{self._hash(b''.join(self._digests)).hexdigest()}"


def digest_name(text, where):
    """Returns the name of the digest `text` of a metadata.json.

    Raises:
        DatasetError: one that this release does not know; `where` names where it stands.
    """
    name = text.partition(":")[0]
    if name not in _HASHES:
        raise DatasetError(
            f"{where}: digest {text!r:.40}: this release reads {' and '.join(_HASHES)}"
        )
    return name
