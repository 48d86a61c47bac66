"""The checksum file of a checkpoint."""

import hashlib

from training.checkpoint import checksums


def test_verify_files_names_every_damaged_file_in_order(tmp_path, rng):
    names = [f"{number:02}.npy" for number in range(20)]
    for name in names:  # Small files, and some that go to the thread pool.
        size = int(rng.integers(1, 2 * checksums._POOLED_BYTES))
        (tmp_path / name).write_bytes(rng.bytes(size))
    digests = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in rng.permutation(names)
    }
    assert checksums.verify_files(tmp_path, digests) == []
    flipped, gone, empty = (tmp_path / list(digests)[index] for index in (3, 17, 8))
    content = bytearray(flipped.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    flipped.write_bytes(content)
    gone.unlink()
    empty.write_bytes(b"")
    errors = checksums.verify_files(tmp_path, digests)
    assert [error.path for error in errors] == [str(flipped), str(empty), str(gone)]
    assert errors[0].expected == digests[flipped.name]
    assert errors[0].found == hashlib.sha256(content).hexdigest()
    assert "No such file" in str(errors[2])
