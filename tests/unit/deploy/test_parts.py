"""Packing a tree into parts with a manifest."""

import hashlib

import pytest

from deploy.airgap import BundleError, parts


def test_pack_is_deterministic(bundle, tmp_path):
    made = bundle()
    again = tmp_path / "again"
    again.mkdir()
    listing = parts.pack(
        made.tree, again, in_start=lambda path: path.parts[0] == "python", facts={},
        part_bytes=7000, level=1, threads=1,
    )  # fmt: skip
    assert listing == made.parts


def test_splitter_writes_parts_of_equal_size(tmp_path, rng):
    for case in range(10):
        part_bytes = int(rng.integers(1, 40))
        splitter = parts.Splitter(tmp_path, f"case{case}", part_bytes)
        pieces = [rng.bytes(int(size)) for size in rng.integers(0, 50, rng.integers(0, 20))]
        for piece in pieces:
            assert splitter.write(piece) == len(piece)
        splitter.close()
        written = [(tmp_path / name).read_bytes() for name, _, _ in splitter.parts]
        assert b"".join(written) == b"".join(pieces)
        assert [len(data) for data in written[:-1]] == [part_bytes] * (len(written) - 1)
        assert all(written), "an empty part"
        for (_, size, digest), data in zip(splitter.parts, written):
            assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
        assert splitter.sha256() == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_start_archive_larger_than_part_is_rejected(bundle, tmp_path):
    made = bundle()
    with pytest.raises(BundleError) as caught:
        parts.pack(made.tree, tmp_path, lambda path: True, {}, part_bytes=100)
    assert (caught.value.flag, caught.value.bound) == ("part_mib", 100)
    assert caught.value.found > 100


def test_fact_of_two_words_is_rejected(tmp_path):
    with pytest.raises(BundleError) as caught:
        parts.write_manifest(tmp_path, {"driver": "580 or later"}, [])
    assert caught.value.found == "580 or later"
