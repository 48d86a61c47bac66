import gzip
import json
import os
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.opening import open_split
from dataset.preprocessing import parts, pipeline, sources
from dataset.preprocessing.columns import NAMES
from dataset.preprocessing.engines import duckdb_engine
from dataset.preprocessing.errors import (
    DictionaryError,
    InputError,
    MemoryLimitError,
    OptionError,
    OutputError,
)
from dataset.preprocessing.stages import locked
from tests.support.dataset.preprocessing import plain_python
from tests.support.dataset.preprocessing.fixtures import (
    random_lines,
    records_of,
    run_options,
    write_days,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10**6),
    lines=st.integers(2, 60),
    rule=st.sampled_from([(7, None), (1000, None), (2**31 - 1, None), (None, 1), (None, 3)]),
    fraction=st.fractions(Fraction(1, 50), Fraction(49, 50)),
    negatives=st.sampled_from(["zero", "keep"]),
    part_bytes=st.integers(200, 20000),
)
def test_equals_plain_python(
    tmp_path_factory, monkeypatch, seed, lines, rule, fraction, negatives, part_bytes
):
    """Any lines, rule and split, cut into parts anywhere."""
    modulo, threshold = rule
    folder = tmp_path_factory.mktemp("run")
    text = random_lines(seed, lines, bad=0.1)
    (folder / "days").mkdir()
    (folder / "days" / "train.txt").write_text("\n".join(text) + "\n")
    samples = [s for s in map(plain_python.read_line, text) if s is not None]
    train, test = plain_python.split_rows(len(samples), fraction)
    if not train or not test:
        return
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    options = run_options(
        folder, test_fraction=fraction, max_table_rows=modulo, frequency_threshold=threshold,
        negatives=negatives, max_rejects=0.99,
    )  # fmt: skip
    pipeline.run(options, say=lambda line: None)
    tables, sizes = plain_python.make_dictionaries(samples, modulo, threshold)
    expected = plain_python.to_records(samples, tables, modulo, negatives)
    out = folder / "out"
    np.testing.assert_array_equal(records_of(out / "train_data.bin"), expected[:train])
    np.testing.assert_array_equal(records_of(out / "test_data.bin"), expected[train:])
    assert json.loads((out / "vocab_sizes.json").read_text()) == sizes
    for i, table in enumerate(tables):
        values = np.load(out / "dictionary" / f"C{i + 1}.npy").tolist()
        assert values == sorted(table, key=table.get)


def _outputs(folder):
    names = ["train_data.bin", "test_data.bin", "vocab_sizes.json"]
    found = {name: (folder / name).read_bytes() for name in names}
    for path in sorted((folder / "dictionary").iterdir()):
        found[path.name] = path.read_bytes()
    return found


def _write_parquet(path, lines, text):
    rows = [line.split("\t") for line in lines]
    columns = {}
    for i, name in enumerate(NAMES):
        column = [row[i] or None for row in rows]
        if not text and i < 14:
            columns[name] = pa.array([None if v is None else int(v) for v in column], pa.int64())
        elif not text:
            columns[name] = pa.array(
                [None if v is None else int(v, 16) for v in column], pa.int64()
            )
        else:
            columns[name] = column
    pq.write_table(pa.table(columns), path, row_group_size=70)


def test_every_form_of_input_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 7000)
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 3000)
    days = [random_lines(1, 400), random_lines(2, 301)]
    results = {}
    for form in ("plain", "gz", "zst", "parquet_text", "parquet_numbers", "parquet_folder"):
        folder = tmp_path / form
        folder.mkdir()
        target = write_days(folder, *days)
        for number, lines in enumerate(days):
            path = target / f"day_{number}"
            text = path.read_bytes()
            if form != "plain":
                path.unlink()
            if form == "gz":
                (target / f"day_{number}.gz").write_bytes(gzip.compress(text))
            elif form == "zst":
                (target / f"day_{number}.zst").write_bytes(zstandard.compress(text))
            elif form == "parquet_folder":
                path = target / f"day_{number}.parquet"
                path.mkdir()
                (path / "_SUCCESS").write_text("")
                _write_parquet(path / "part-2.parquet", lines[:150], True)
                _write_parquet(path / "part-10.parquet", lines[150:], False)
            elif form != "plain":
                _write_parquet(f"{path}.parquet", lines, form == "parquet_text")
        pipeline.run(run_options(folder, train_days=(0,), test_day=1), say=lambda line: None)
        results[form] = _outputs(folder / "out")
    for form, found in results.items():
        assert found == results["plain"], form
    assert len(results["plain"]["train_data.bin"]) == 400 * 160
    assert len(results["plain"]["test_data.bin"]) == 151 * 160


def test_malformed_parquet_rows_are_rejected_with_their_row(tmp_path, preprocess):
    (tmp_path / "days").mkdir()
    lines = random_lines(5, 30)
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


def test_worker_processes_give_the_same_bytes(tmp_path):
    days = [random_lines(1, 900), random_lines(2, 700)]
    write_days(tmp_path, *days)
    found = []
    for jobs in (1, 2):
        out = str(tmp_path / f"out{jobs}")
        options = run_options(tmp_path, jobs=jobs, output=out, train_days=(0,), test_day=1)
        pipeline.run(options, say=lambda line: None)
        found.append(_outputs(tmp_path / f"out{jobs}"))
    assert found[0] == found[1]


def test_lookup_tables_that_do_not_fit_at_once_give_the_same_bytes(
    tmp_path, preprocess, monkeypatch
):
    write_days(tmp_path, random_lines(1, 300), random_lines(2, 200))
    split = {"train_days": (0,), "test_day": 1, "frequency_threshold": 2}
    first, _ = preprocess(**split)
    groups = []
    fit = duckdb_engine._fit

    def fit_little(tables, room):
        groups.extend(fit(tables, 2 << 10))
        return groups

    monkeypatch.setattr(duckdb_engine, "_fit", fit_little)
    second, _ = preprocess(**split, output=str(tmp_path / "again"))
    assert len(groups) > 3
    assert first == second
    assert _outputs(tmp_path / "out") == _outputs(tmp_path / "again")


def test_a_dictionary_too_large_for_the_memory_limit_is_an_error(tmp_path, preprocess, monkeypatch):
    write_days(tmp_path, random_lines(1, 300), random_lines(2, 200))
    monkeypatch.setattr(duckdb_engine, "_BUILD_BYTES", 1 << 30)
    with pytest.raises(MemoryLimitError, match=r"--memory_limit: a dictionary has \d+ values"):
        preprocess(train_days=(0,), test_day=1)


def test_per_table_layout(tmp_path, preprocess):
    write_days(tmp_path, random_lines(1, 300), random_lines(2, 101))
    split = {"train_days": (0,), "test_day": 1, "write_validation": True}
    preprocess(**split)
    preprocess(**split, layout="per_table", output=str(tmp_path / "columns"))
    for name, rows in (("train", 300), ("test", 51), ("validation", 50)):
        raw = records_of(tmp_path / "out" / f"{name}_data.bin")
        split = open_split(str(tmp_path / "columns" / name))
        assert (split.layout, split.samples) == ("per_table", rows)
        label = np.fromfile(tmp_path / "columns" / name / "label.bin", bool)
        np.testing.assert_array_equal(label, raw[:, 0])
        dense = np.fromfile(tmp_path / "columns" / name / "dense.bin", np.float16).reshape(-1, 13)
        # float16 keeps 11 bits.
        np.testing.assert_allclose(dense, np.log1p(raw[:, 1:14].astype(float)), rtol=2**-11)
    assert not list((tmp_path / "columns").glob("*_data.bin*"))


@pytest.mark.parametrize(
    "change",
    [
        {"max_table_rows": 11},
        {"frequency_threshold": 2},
        {"negatives": "keep"},
        {"write_validation": True},
    ],
)
@pytest.mark.parametrize("keep_parts", [False, True])
def test_a_changed_option_is_noticed(tmp_path, preprocess, change, keep_parts):
    write_days(tmp_path, random_lines(1, 120), random_lines(2, 80))
    split = {"train_days": (0,), "test_day": 1, "keep_parts": keep_parts}
    preprocess(**split)
    _, said = preprocess(**split)
    assert any("complete already" in line for line in said)
    with pytest.raises(OutputError, match=r"out: holds the complete result .* give --overwrite"):
        preprocess(**split, **change)
    changed, said = preprocess(**split, **change, overwrite=True)
    assert not any("complete already" in line for line in said)
    assert any("2 finished before" in line for line in said) == keep_parts
    fresh, _ = preprocess(**split, **change, output=str(tmp_path / "fresh"))
    assert changed == fresh
    assert _outputs(tmp_path / "out") == _outputs(tmp_path / "fresh")


def test_changed_input_is_noticed(tmp_path, preprocess):
    days = write_days(tmp_path, random_lines(1, 120), random_lines(2, 80))
    split = {"train_days": (0,), "test_day": 1, "keep_parts": True}
    preprocess(**split)
    (days / "day_1").write_text("".join(line + "\n" for line in random_lines(3, 80)))
    _, said = preprocess(**split, overwrite=True)
    # Day 0 is not parsed again.
    assert any(line.startswith("parse: 2 units") and "1 finished before" in line for line in said)
    preprocess(**split, output=str(tmp_path / "fresh"))
    assert _outputs(tmp_path / "out") == _outputs(tmp_path / "fresh")


@pytest.mark.parametrize("damage", ["train_data.bin", "vocab_sizes.json"])
def test_a_damaged_output_is_made_again(tmp_path, preprocess, damage):
    write_days(tmp_path, random_lines(1, 120), random_lines(2, 80))
    split = {"train_days": (0,), "test_day": 1}
    preprocess(**split)
    before = _outputs(tmp_path / "out")
    path = tmp_path / "out" / damage
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(OutputError, match=f"{path.name}: was changed after preprocess.py wrote it"):
        preprocess(**split, overwrite=True)
    path.unlink()
    preprocess(**split, overwrite=True)
    assert _outputs(tmp_path / "out") == before


def test_a_damaged_dictionary_is_an_error(tmp_path, preprocess):
    write_days(tmp_path, random_lines(1, 120), random_lines(2, 80))
    preprocess(train_days=(0,), test_day=1)
    reuse = {
        "dictionary": str(tmp_path / "out" / "dictionary"),
        "train_days": (0,),
        "output": str(tmp_path / "later"),
    }
    path = tmp_path / "out" / "dictionary" / "C3.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DictionaryError, match=r"C3\.npy: damaged: its checksum"):
        preprocess(**reuse)
    os.remove(path)
    with pytest.raises(DictionaryError, match=r"C3\.npy: cannot be read: No such file"):
        preprocess(**reuse)
    manifest = tmp_path / "out" / "dictionary" / "dictionary.json"
    rule = json.loads(manifest.read_text())
    for modulo in (0, 2**31):
        manifest.write_text(json.dumps({**rule, "max_table_rows": modulo}))
        with pytest.raises(DictionaryError, match=rf"json: max_table_rows: .*, found {modulo}"):
            preprocess(**reuse)
    manifest.write_text("{}")
    with pytest.raises(DictionaryError, match="format_version: is missing"):
        preprocess(**reuse)


def test_input_errors(tmp_path, preprocess):
    with pytest.raises(InputError, match="nothing matches"):
        preprocess(train_days=(0,), test_day=1)
    days = write_days(tmp_path, random_lines(1, 12))
    with pytest.raises(InputError, match=r"no file for day 1 \(days found: 0\)"):
        preprocess(train_days=(0,), test_day=1)
    (days / "day_0.gz").write_bytes(b"")
    with pytest.raises(InputError, match="day 0 is there twice"):
        preprocess(train_days=(0,))
    (days / "day_0.gz").unlink()
    (days / "day_1").write_bytes(b"")
    with pytest.raises(InputError, match=r"day_1: no sample of day 1"):
        preprocess(train_days=(0,), test_day=1)
    (days / "day_2").write_text("no,such,data\n" * 3000)
    with pytest.raises(
        Exception, match=r"many more than --max_rejects.*day_2:1: 1 field, expected 40"
    ):
        preprocess(train_days=(0, 2))
    pq.write_table(pa.table({"label": [1]}), days / "day_3.parquet")
    with pytest.raises(InputError, match="lacks the columns I1, I2"):
        preprocess(train_days=(3,))


def test_two_runs_at_once_are_an_error(tmp_path, preprocess):
    write_days(tmp_path, random_lines(1, 12), random_lines(1, 12))
    folder = str(tmp_path / "out" / ".preprocess")
    with locked(folder), pytest.raises(OptionError, match="another preprocessing run"):
        preprocess(train_days=(0,), test_day=1)


def test_days_are_ordered_by_number(tmp_path, preprocess):
    days = [[line] for line in random_lines(9, 12)]
    write_days(tmp_path, *days)
    preprocess(train_days=tuple(range(11)), test_day=11)
    samples = [plain_python.read_line(day[0]) for day in days]
    tables, _ = plain_python.make_dictionaries(samples, 1000)
    expected = plain_python.to_records(samples, tables, 1000)
    np.testing.assert_array_equal(records_of(tmp_path / "out" / "train_data.bin"), expected[:11])
    np.testing.assert_array_equal(records_of(tmp_path / "out" / "test_data.bin"), expected[11:])
