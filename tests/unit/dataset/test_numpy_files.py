"""Arrays within .npz archives: found where they are, and refused when they cannot be read so."""

import zipfile

import numpy as np
import pytest

from dataset import DatasetError
from dataset.numpy_files import npz_arrays

WIDTHS = (3, 1, 100, 7)


def write(path, rng, rows=50, widths=WIDTHS, save=np.savez):
    arrays = [rng.integers(-(2**31), 2**31, (rows, k), dtype=np.int32) for k in widths]
    save(path, **{str(index): array for index, array in enumerate(arrays)})
    return arrays


def test_npz_arrays_are_at_their_offsets(tmp_path, rng):
    arrays = write(tmp_path / "a.npz", rng)
    found = npz_arrays(str(tmp_path / "a.npz"), "int32", len(WIDTHS))
    stored = (tmp_path / "a.npz").read_bytes()
    for array, (rows, width, offset) in zip(arrays, found):
        assert (rows, width) == array.shape
        assert stored[offset : offset + array.nbytes] == array.tobytes()


def test_npz_arrays_with_other_headers_are_at_their_offsets(tmp_path, rng):
    """Bytes before the archive, extra fields, another order, and .npy version 2."""
    arrays = [rng.integers(0, 99, (9, k), dtype=np.int32) for k in (4, 2)]
    path = tmp_path / "a.npz"
    path.write_bytes(bytes(rng.integers(0, 256, 77, np.uint8)))
    with zipfile.ZipFile(path, "a") as archive:
        for index in (1, 0):
            info = zipfile.ZipInfo(f"{index}.npy")
            info.extra = b"\x99\x99\x05\x00hello"
            with archive.open(info, "w", force_zip64=index == 1) as member:
                np.lib.format.write_array(member, arrays[index], version=(1 + index, 0))
    stored = path.read_bytes()
    for array, (rows, width, offset) in zip(arrays, npz_arrays(str(path), "int32", 2)):
        assert (rows, width) == array.shape
        assert stored[offset : offset + array.nbytes] == array.tobytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((5, 2), np.int64)], r"0.npy: dtype: expected int32, found int64"),
        ([np.zeros((5, 2), ">i4")], r"0.npy: dtype: expected int32, found >i4"),
        ([np.asfortranarray(np.zeros((5, 2), np.int32))], r"found \[5, 2\] in Fortran order"),
        ([np.zeros(5, np.int32)], r"0.npy: expected an array of shape .*, found \[5\]"),
        ([np.zeros((5, 0), np.int32)], r"0.npy: expected an array of shape .*, found \[5, 0\]"),
        ([np.zeros((5, 2), np.int32)] * 2, r"expected 0.npy to 0.npy, found 2 members$"),
        ([np.array([{}])], r"0.npy: expected an array of shape"),
    ],
)
def test_npz_arrays_refuses_other_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **{str(index): array for index, array in enumerate(arrays)})
    with pytest.raises(DatasetError, match=message) as caught:
        npz_arrays(str(tmp_path / "a.npz"), "int32", 1)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.npz") in str(caught.value)


def test_npz_arrays_refuses_missing_and_differing_arrays(tmp_path, rng):
    path = str(tmp_path / "a.npz")
    write(path, rng)
    with pytest.raises(DatasetError, match=r"0.npy to 4.npy, found 4 members without 4.npy"):
        npz_arrays(path, "int32", 5)
    np.savez(path, **{"0": np.zeros((5, 2), np.int32), "1": np.zeros((6, 2), np.int32)})
    with pytest.raises(DatasetError, match=r"1.npy: rows, as in 0.npy: expected 5, found 6"):
        npz_arrays(path, "int32", 2)


def test_npz_arrays_refuses_compressed_members(tmp_path, rng):
    write(tmp_path / "a.npz", rng, save=np.savez_compressed)
    with pytest.raises(DatasetError, match=r"expected an uncompressed member, found a compressed"):
        npz_arrays(str(tmp_path / "a.npz"), "int32", len(WIDTHS))


def test_npz_arrays_survives_every_kind_of_damage(tmp_path, rng):
    """Any damage is an error of one line, or leaves arrays inside the file."""
    path = tmp_path / "a.npz"
    write(path, rng, rows=3, widths=(2, 1))
    whole = path.read_bytes()
    refused = 0
    for attempt in range(150):
        damaged = bytearray(whole)
        if attempt < 20:
            damaged = damaged[: rng.integers(0, len(whole))]
        else:
            # Not the numbers themselves.
            for position in rng.integers(0, len(whole), rng.integers(1, 4)):
                damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            found = npz_arrays(str(path), "int32", 2)
        except DatasetError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        for rows, width, offset in found:
            assert offset + 4 * rows * width <= len(damaged)
    assert refused > 20
