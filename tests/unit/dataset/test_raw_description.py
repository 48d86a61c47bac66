"""The metadata.json next to raw files: written with them, and read where it describes them."""

import json

import pytest

from dataset import convert, multihot, open_split
from ops.bags import Bags
from tests.support.dataset import multi_hot
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_raw,
    write_three_file,
)


def convert_to_raw(source, path, *flags):
    flags = ("--layout", "raw", "--dense_transform", "log(x+1)", *flags)
    return convert.main([str(argument) for argument in (source, path, *flags)])


def test_single_raw_file_of_lists_is_described_next_to_it(tmp_path, rng, capsys):
    same_slots = Bags.of(multi_hot.FIXED.hotness[::-1])
    for name, bags in (("a", multi_hot.FIXED), ("b", same_slots)):
        multi_hot.write_three_file(tmp_path / name, multi_hot.random_samples(rng, 30, bags),
                                   hotness_per_table=list(bags.hotness))  # fmt: skip
    a, b, raw = tmp_path / "a", tmp_path / "b", tmp_path / "raw" / "x.bin"
    assert convert_to_raw(a, raw, "--pooling", ",".join(multi_hot.FIXED.pooling)) == 0
    assert open_split(raw).bags == multi_hot.FIXED
    # The only raw file of the folder may be replaced, with its description.
    assert convert_to_raw(b, raw, "--overwrite") == 0
    assert open_split(raw).bags == same_slots
    assert convert_to_raw(b, raw.with_name("y.bin")) == 0
    capsys.readouterr()
    before = sorted(path.read_bytes() for path in raw.parent.iterdir())
    for path in (raw, raw.with_name("z.bin")):
        assert convert_to_raw(a, path, "--overwrite") == 2
        (line,) = capsys.readouterr().err.splitlines()
        expected = f"hotness_per_table of {path.name}: expected {list(multi_hot.FIXED.hotness)}"
        assert f"metadata.json: describes all raw files of the folder: {expected}" in line
    assert sorted(path.read_bytes() for path in raw.parent.iterdir()) == before


def test_single_raw_file_leaves_a_description_of_others(tmp_path, rng, capsys):
    drawn = multi_hot.random_samples(rng, 30)
    multi_hot.write_three_file(tmp_path / "a", drawn, hotness_per_table=drawn.bags.hotness)
    one_hot = random_arrays(30, rng)
    write_three_file(tmp_path / "b", one_hot, seed_metadata())
    side = tmp_path / "raw" / "metadata.json"
    side.parent.mkdir()
    # A user's description: of other records, then of no records.
    side.write_text(
        json.dumps({"vocab_sizes": multi_hot.VOCAB_SIZES, "hotness_per_table": [5] * 5})
    )
    for source in ("a", "b"):
        assert convert_to_raw(tmp_path / source, side.with_name("x.bin")) == 2
        assert "metadata.json: exists, and this program did not" in capsys.readouterr().err
    side.write_text('["mine"]')
    assert convert_to_raw(tmp_path / "a", side.with_name("x.bin")) == 2
    assert convert_to_raw(tmp_path / "b", side.with_name("x.bin")) == 0
    assert side.read_text() == '["mine"]'


def test_multi_hot_raw_file_next_to_its_one_hot_source_is_refused(tmp_path, rng, capsys):
    sizes = [7, 5, 30]
    multi_hot.write_raw(
        tmp_path / "x.bin", multi_hot.random_samples(rng, 9, Bags.one_hot(3), sizes)
    )
    (tmp_path / "vocab_sizes.json").write_text(json.dumps(sizes))
    for folder, status in ((tmp_path, 2), (tmp_path / "new", 0)):
        flags = ["--hotness=2,1,3", "--layout=raw"]
        path = folder / "y.bin"
        assert multihot.main([str(tmp_path / "x.bin"), str(path), *flags]) == status
        assert ("hotness_per_table of y.bin" in capsys.readouterr().err) == (status == 2)
        assert path.exists() == (status == 0)
    assert open_split(path).bags == Bags.of([2, 1, 3])
    assert open_split(tmp_path / "x.bin").bags.is_one_hot


@pytest.mark.parametrize("content", [
    "[]", "3", '"hotness_per_table"', '{"title": "mine"}', "not JSON", "",
    '{"format_version": 2, "hotness_per_table": [2, 3]}',
])  # fmt: skip
def test_foreign_metadata_next_to_a_raw_file_is_ignored(tmp_path, rng, content):
    write_raw(tmp_path / "x.bin", random_arrays(9, rng))
    (tmp_path / "metadata.json").write_text(content)
    assert open_split(tmp_path / "x.bin", vocab_sizes=VOCAB_SIZES).bags.is_one_hot
