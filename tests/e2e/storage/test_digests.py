"""The checksum file, checked by coreutils."""

import subprocess

from storage import digests


def test_sha256sum_accepts_the_checksum_file(tmp_path, rng):
    found = {}
    for name in ("b.npy", "a.npy", "dense/c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rng.bytes(1000))
        found[name] = digests.sha256_of_file(tmp_path / name)
    (tmp_path / "SHA256SUMS").write_text(digests.checksum_text(found))
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
