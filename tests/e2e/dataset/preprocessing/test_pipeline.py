"""Complete runs against plain Python, and against each other."""

import gzip
import json
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dataset.opening import open_split
from dataset.preprocessing import native, parts, sources
from dataset.preprocessing.columns import NAMES
from dataset.preprocessing.engines import duckdb_engine
from dataset.preprocessing.errors import (
    InputError,
    LibraryError,
    MemoryLimitError,
    OptionError,
    OutputError,
)
from dataset.preprocessing.inputs import find_inputs, select_days
from dataset.preprocessing.stages import locked
from tests.support.dataset.preprocessing import plain_python
from tests.support.dataset.preprocessing.fixtures import (
    files_below,
    random_lines,
    records_of,
    run_options,
    run_quietly,
    text_of,
    write_days,
)

RULES = [(7, None), (1000, None), (2**31 - 1, None), (None, 1), (None, 3)]


@pytest.mark.parametrize("modulo, threshold", RULES)
def test_run_equals_plain_python(rng, tmp_path, monkeypatch, modulo, threshold):
    """Random lines, options and split, cut into parts anywhere."""
    negatives = str(rng.choice(["zero", "keep"]))
    lines = int(rng.integers(5, 60))
    fraction = Fraction(int(rng.integers(5, 45)), 50)
    text = [*random_lines(rng, lines, bad=0.1), *random_lines(rng, 10)]
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "train.txt").write_bytes(text_of(text))
    samples = [s for s in map(plain_python.read_line, text) if s is not None]
    train, test = plain_python.split_rows(len(samples), fraction)
    monkeypatch.setattr(parts, "PART_BYTES", int(rng.integers(200, 20000)))
    run_quietly(
        tmp_path, test_fraction=fraction, max_table_rows=modulo, frequency_threshold=threshold,
        negatives=negatives, max_rejects=0.99,
    )  # fmt: skip
    tables, sizes = plain_python.make_dictionaries(samples, modulo, threshold)
    expected = plain_python.to_records(samples, tables, modulo, negatives)
    out = tmp_path / "out"
    assert train and test
    np.testing.assert_array_equal(records_of(out / "train_data.bin"), expected[:train])
    np.testing.assert_array_equal(records_of(out / "test_data.bin"), expected[train:])
    assert json.loads((out / "vocab_sizes.json").read_text()) == sizes
    for i, table in enumerate(tables):
        values = np.load(out / "dictionary" / f"C{i + 1}.npy").tolist()
        assert values == sorted(table, key=table.get)


def test_run_without_the_library_fails_before_it_writes(rng, tmp_path, preprocess, monkeypatch):
    def missing():
        raise LibraryError("missing", path="library.so")

    write_days(tmp_path, random_lines(rng, 5))
    monkeypatch.setattr(native, "require", missing)
    with pytest.raises(LibraryError):
        preprocess(train_days=(0,))
    assert not (tmp_path / "out").exists()


def _outputs(folder):
    """Returns the files that depend only on the samples and the rule."""
    files = files_below(folder)
    for name in ("preprocess.json", "report.json"):
        del files[name]
    return files


def _write_parquet(path, lines, text):
    """Writes values as text, or as numbers."""
    columns = {}
    for name, column in zip(NAMES, zip(*(line.split("\t") for line in lines))):
        base = 16 if name.startswith("C") else 10
        values = [value or None for value in column]
        columns[name] = values if text else [v and int(v, base) for v in values]
    pq.write_table(pa.table(columns), path, row_group_size=30)


def test_every_form_of_input_gives_the_same_bytes(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 7000)
    monkeypatch.setattr(parts, "PART_ROWS", 40)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 3000)
    days = [random_lines(rng, 100), random_lines(rng, 51)]
    results = {}
    for form in ("plain", "gz", "zst", "parquet"):
        folder = tmp_path / form
        folder.mkdir()
        target = write_days(folder, *days)
        for number, lines in enumerate(days):
            path = target / f"day_{number}"
            compress = {"gz": gzip.compress, "zst": zstandard.compress}.get(form)
            if compress:
                (target / f"day_{number}.{form}").write_bytes(compress(path.read_bytes()))
            elif form == "parquet":
                parquet = target / f"day_{number}.parquet"
                parquet.mkdir()
                (parquet / "_SUCCESS").write_text("")
                _write_parquet(parquet / "part-2.parquet", lines[:40], True)
                _write_parquet(parquet / "part-10.parquet", lines[40:], False)
            if form != "plain":
                path.unlink()
        run_quietly(folder, train_days=(0,), test_day=1)
        results[form] = _outputs(folder / "out")
    for form, found in results.items():
        assert found == results["plain"], form
    assert len(results["plain"]["train_data.bin"]) == 100 * 160
    assert len(results["plain"]["test_data.bin"]) == 26 * 160


def test_malformed_parquet_rows_are_rejected_with_their_number(rng, tmp_path, preprocess):
    (tmp_path / "days").mkdir()
    lines = random_lines(rng, 30)
    rows = [line.split("\t") for line in lines]
    rows[3][0], rows[7][2], rows[7][20], rows[29][39] = "2", "x", "-", "123456789"
    table = pa.table({name: [row[i] or None for row in rows] for i, name in enumerate(NAMES)})
    table = table.set_column(3, "I3", pa.array([2**40 if i == 5 else 1 for i in range(30)]))
    pq.write_table(table, tmp_path / "days" / "a.parquet", row_group_size=8)
    preprocess(test_fraction=Fraction(1, 2), max_rejects=0.5)
    found = (tmp_path / "out" / "rejects.tsv").read_text().splitlines()
    assert [line.split("\t")[1:3] for line in found] == [
        ["4", "label '2' is not 0 or 1"],
        ["6", "I3 1099511627776 is not int32"],
        ["8", "I2 'x' is not int32"],
        ["30", "C26 '123456789' is not hexadecimal of 32 bits"],
    ]


def test_several_mapping_passes_give_the_same_bytes(rng, tmp_path, preprocess, monkeypatch):
    write_days(tmp_path, random_lines(rng, 100), random_lines(rng, 80))
    split = {"train_days": (0,), "test_day": 1, "frequency_threshold": 2}
    first, _ = preprocess(**split)
    groups = []
    fit = duckdb_engine._fit

    def fit_little(tables, capacity_bytes):
        groups.extend(fit(tables, 2 << 10))
        return groups

    monkeypatch.setattr(duckdb_engine, "_fit", fit_little)
    second, _ = preprocess(**split, output=str(tmp_path / "again"))
    assert len(groups) > 3
    assert first == second
    assert _outputs(tmp_path / "out") == _outputs(tmp_path / "again")


def test_a_dictionary_too_large_for_the_memory_limit_is_an_error(
    rng, tmp_path, preprocess, monkeypatch
):
    write_days(tmp_path, random_lines(rng, 100), random_lines(rng, 80))
    monkeypatch.setattr(duckdb_engine, "_BUILD_BYTES", 1 << 30)
    with pytest.raises(MemoryLimitError) as caught:
        preprocess(train_days=(0,), test_day=1)
    assert (caught.value.flag, caught.value.found) == ("memory_limit", 1 << 30)
    assert caught.value.expected > 1 << 30


def test_per_table_layout_holds_the_raw_records(rng, tmp_path, preprocess):
    write_days(tmp_path, random_lines(rng, 100), random_lines(rng, 41))
    split = {"train_days": (0,), "test_day": 1, "write_validation": True}
    preprocess(**split)
    preprocess(**split, layout="per_table", output=str(tmp_path / "columns"))
    for name, rows in (("train", 100), ("test", 21), ("validation", 20)):
        raw = records_of(tmp_path / "out" / f"{name}_data.bin")
        split = open_split(str(tmp_path / "columns" / name))
        assert (split.layout, split.samples) == ("per_table", rows)
        label = np.fromfile(tmp_path / "columns" / name / "label.bin", bool)
        np.testing.assert_array_equal(label, raw[:, 0])
        dense = np.fromfile(tmp_path / "columns" / name / "dense.bin", np.float16).reshape(-1, 13)
        # float16 keeps 11 bits.
        np.testing.assert_allclose(dense, np.log1p(raw[:, 1:14].astype(float)), rtol=2**-11)
    assert not list((tmp_path / "columns").glob("*_data.bin*"))


def test_a_changed_option_repeats_what_depends_on_it(rng, tmp_path, preprocess):
    write_days(tmp_path, random_lines(rng, 80), random_lines(rng, 40))
    given = {"train_days": (0,), "test_day": 1, "keep_parts": True}
    preprocess(**given)
    per_table = {"negatives": "zero", "write_validation": True, "layout": "per_table"}
    for change in ({"frequency_threshold": 2}, {"negatives": "keep"}, per_table):
        _, logged = preprocess(**given)
        assert any("already complete" in line for line in logged)
        given.update(change)
        before = files_below(tmp_path / "out")
        with pytest.raises(OutputError) as caught:
            preprocess(**given)
        assert (caught.value.flag, caught.value.path) == ("overwrite", str(tmp_path / "out"))
        assert files_below(tmp_path / "out") == before
        changed, logged = preprocess(**given, overwrite=True)
        assert any("2 finished before" in line for line in logged)
        fresh = tmp_path / f"fresh-{len(given)}"
        assert preprocess(**given, output=str(fresh))[0] == changed
        found = _outputs(tmp_path / "out")
        assert {name: found[name] for name in _outputs(fresh)} == _outputs(fresh)


def test_a_changed_day_is_parsed_again(rng, tmp_path, preprocess):
    days = write_days(tmp_path, random_lines(rng, 120), random_lines(rng, 80))
    split = {"train_days": (0,), "test_day": 1, "keep_parts": True}
    preprocess(**split)
    (days / "day_1").write_bytes(text_of(random_lines(rng, 80)))
    _, logged = preprocess(**split, overwrite=True)
    # Day 0 is not parsed again.
    assert any(line.startswith("parse: 2 units") and "1 finished before" in line for line in logged)
    preprocess(**split, output=str(tmp_path / "fresh"))
    assert _outputs(tmp_path / "out") == _outputs(tmp_path / "fresh")


def test_a_removed_output_is_made_again(rng, tmp_path, preprocess):
    write_days(tmp_path, random_lines(rng, 120), random_lines(rng, 80))
    split = {"train_days": (0,), "test_day": 1}
    preprocess(**split)
    before = _outputs(tmp_path / "out")
    for name in ("train_data.bin", "vocab_sizes.json"):
        path = tmp_path / "out" / name
        content = bytearray(path.read_bytes())
        content[3] ^= 1
        path.write_bytes(content)
        with pytest.raises(OutputError, match="changed") as caught:
            preprocess(**split, overwrite=True)
        assert caught.value.path == str(path)
        assert path.read_bytes() == content
        path.unlink()
    preprocess(**split, overwrite=True)
    assert _outputs(tmp_path / "out") == before


def test_input_errors_name_path_and_day(rng, tmp_path, preprocess):
    with pytest.raises(InputError) as caught:
        preprocess(train_days=(0,), test_day=1)
    assert (caught.value.flag, caught.value.path) == ("input", str(tmp_path / "days"))
    days = write_days(tmp_path, random_lines(rng, 12))
    with pytest.raises(InputError) as caught:
        preprocess(train_days=(0,), test_day=1)
    assert (caught.value.expected, caught.value.found) == ([1], [0])
    (days / "day_0.gz").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        preprocess(train_days=(0,))
    assert (caught.value.found, caught.value.path) == (0, str(days / "day_0.gz"))


def test_select_days_reports_ignored_days(tmp_path):
    days = write_days(tmp_path, *[["x"]] * 4)
    options, logged = run_options(tmp_path, train_days=(2, 0)), []
    train, test = select_days(find_inputs(str(days)), options, logged.append)
    assert ([file.day for file in train], test) == ([2, 0], [])
    assert len(logged) == 1 and logged[0].endswith(": 1, 3")


def test_two_runs_in_one_work_folder_are_an_error(rng, tmp_path, preprocess):
    write_days(tmp_path, random_lines(rng, 12), random_lines(rng, 12))
    folder = str(tmp_path / "out" / ".preprocess")
    with locked(folder), pytest.raises(OptionError) as caught:
        preprocess(train_days=(0,), test_day=1)
    assert (caught.value.flag, caught.value.path) == ("work_dir", folder)
