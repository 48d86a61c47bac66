"""Input that is truncated, empty, in another format, or begins with a byte order mark."""

import gzip
import json
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dataset.preprocessing import parquet_input, parts, sources
from dataset.preprocessing.columns import NAMES
from dataset.preprocessing.errors import InputError, RejectedLinesError
from dataset.preprocessing.text_ends import decode_unterminated, without_mark
from dataset.preprocessing.tsv import explain
from tests.support.dataset.preprocessing.fixtures import (
    random_lines,
    records_of,
    text_of,
    write_days,
)
from tests.support.dataset.preprocessing.plain_python import read_line

_MARK = b"\xef\xbb\xbf"
_FORMS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def _complete_line(rng, last="12345678"):
    """Returns a valid line whose last value is `last`."""
    return random_lines(rng, 1)[0].rpartition("\t")[0] + f"\t{last}"


def _write(folder, content, form=""):
    (folder / "days").mkdir(exist_ok=True)
    path = folder / "days" / f"day_0{form}"
    path.write_bytes(_FORMS[form](content))
    return path


@pytest.mark.parametrize(
    "form, cut", [("", 1), ("", 8), ("", 9), ("", 40), (".gz", 2), (".zst", 5)]
)
def test_a_day_truncated_in_its_last_line_loses_only_that_line(
    rng, tmp_path, preprocess, monkeypatch, form, cut
):
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    lines = [*random_lines(rng, 30), _complete_line(rng)]
    path = _write(tmp_path, "\n".join(lines).encode()[:-cut], form)
    report, logged = preprocess(train_days=(0,), max_rejects=Fraction(1, 10))
    assert report["inputs"]["without_final_newline"] == [str(path)]
    assert any(line.startswith(f"warning: {path}:31: ") for line in logged)
    assert report["rejected_lines"] == 1
    assert len(records_of(tmp_path / "out" / "train_data.bin")) == 30
    rejected = (tmp_path / "out" / "rejects.tsv").read_text().split("\t")
    assert rejected[:2] == [str(path), "31"]
    assert "line end" in rejected[2]
    if cut < 8:
        assert rejected[2].startswith(f"C26 {'12345678'[:-cut]!r}")


@pytest.mark.parametrize("form", _FORMS)
def test_a_complete_last_line_without_a_line_end_is_kept(rng, tmp_path, preprocess, form):
    lines = [*random_lines(rng, 30), _complete_line(rng)]
    path = _write(tmp_path, "\n".join(lines).encode(), form)
    report, logged = preprocess(train_days=(0,), max_rejects=0)
    assert report["rejected_lines"] == 0
    assert report["inputs"]["without_final_newline"] == [str(path)]
    assert any(line.startswith(f"warning: {path}:31: ") for line in logged)
    assert len(records_of(tmp_path / "out" / "train_data.bin")) == 31


def test_a_carriage_return_completes_the_last_field(rng):
    text = text_of([*random_lines(rng, 9), _complete_line(rng, "12345")], "\r\n")
    decoded = decode_unterminated(text)
    assert (decoded.lines, decoded.rejects) == (10, [])
    cut = decode_unterminated(text[:-2] + b"\n")
    assert [reject.line for reject in cut.rejects] == [9]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_regular_line_ends_are_not_reported(rng, tmp_path, preprocess, end):
    lines = random_lines(rng, 50)
    _write(tmp_path, text_of(lines, end))
    report, _ = preprocess(train_days=(0,), max_rejects=0)
    assert report["inputs"] == {
        "files": 1, "empty": [], "without_final_newline": [], "byte_order_mark": [],
    }  # fmt: skip
    found = records_of(tmp_path / "out" / "train_data.bin")
    assert len(found) == 50
    assert found[:, 0].tolist() == [int(line[0]) for line in lines]


def test_max_rejects_of_zero_allows_none(rng, tmp_path, preprocess):
    """One of twenty thousand lines is less than the default limit."""
    path = _write(tmp_path, text_of([_complete_line(rng)] * 20000) + b"2\n")
    with pytest.raises(RejectedLinesError) as caught:
        preprocess(train_days=(0,), max_rejects=Fraction(0))
    error = caught.value
    assert (error.path, error.line, error.found, error.bound) == (str(path), 20001, 1, 0)
    report, _ = preprocess(train_days=(0,))
    assert report["rejected_lines"] == 1


@pytest.mark.parametrize("form", _FORMS)
def test_a_byte_order_mark_costs_no_sample(rng, tmp_path, preprocess, monkeypatch, form):
    monkeypatch.setattr(parts, "PART_BYTES", 2500)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1000)
    text = text_of(random_lines(rng, 20))
    path = _write(tmp_path, text, form)
    preprocess(train_days=(0,), max_rejects=0)
    plain = records_of(tmp_path / "out" / "train_data.bin")
    _write(tmp_path, _MARK + text, form)
    report, logged = preprocess(train_days=(0,), max_rejects=0, output=str(tmp_path / "marked"))
    np.testing.assert_array_equal(records_of(tmp_path / "marked" / "train_data.bin"), plain)
    assert report["inputs"]["byte_order_mark"] == [str(path)]
    assert any(line.startswith(f"{path}: ") for line in logged)


@pytest.mark.parametrize(
    "content, found",
    [
        ("0\t1\n".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "0\t1\n".encode("utf-16-be"), "UTF-16"),
        ("0\t1\n".encode("utf-32"), "UTF-32"),
        (gzip.compress(b"0\t1\n", mtime=0) + b"\n", "gzip"),
        (zstandard.compress(b"0\t1\n") + b"\n", "zstd"),
        (b"PAR1\n", "Parquet"),
        (b"PK\x03\x04\n", "zip"),
        (b"BZh91AY\n", "bzip2"),
    ],
)
def test_without_mark_recognises_other_data(content, found):
    with pytest.raises(InputError) as caught:
        without_mark(content, "day_0")
    assert caught.value.path == "day_0"
    assert found in caught.value.found


@pytest.mark.parametrize("form", [*_FORMS, ".parquet"])
def test_a_day_without_samples_is_an_error(rng, tmp_path, preprocess, form):
    days = write_days(tmp_path, random_lines(rng, 20))
    path = days / f"day_1{form}"
    if form == ".parquet":
        columns = {name: pa.array([], pa.int64()) for name in NAMES}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_bytes(_FORMS[form](b""))
    for given in ({"train_days": (0, 1)}, {"test_fraction": Fraction(1, 2)}):
        with pytest.raises(InputError) as caught:
            preprocess(**given)
        assert (caught.value.path, caught.value.found) == (str(path), 0)
    assert not (tmp_path / "out" / "train_data.bin").exists()


def test_a_zero_byte_day_is_found_before_anything_is_written(rng, tmp_path, preprocess):
    days = write_days(tmp_path, random_lines(rng, 20))
    (days / "day_1.gz").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        preprocess(train_days=(0, 1))
    assert caught.value.path == str(days / "day_1.gz")
    assert not (tmp_path / "out").exists()


def test_an_empty_file_next_to_others_is_a_warning(rng, tmp_path, preprocess):
    """Spark writes such files for empty partitions."""
    folder = tmp_path / "days" / "day_0"
    folder.mkdir(parents=True)
    (folder / "part-0").write_bytes(text_of(random_lines(rng, 20)))
    (folder / "part-1").write_bytes(b"")
    columns = {name: pa.array([], pa.int64()) for name in NAMES}
    pq.write_table(pa.table(columns), folder / "part-2.parquet")
    report, logged = preprocess(train_days=(0,))
    empty = [str(folder / "part-1"), str(folder / "part-2.parquet")]
    assert report["inputs"]["empty"] == empty
    assert all(any(line.startswith(f"warning: {path}: ") for line in logged) for path in empty)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["inputs"] == report["inputs"]


@pytest.mark.parametrize("form", [".gz", ".zst"])
@pytest.mark.parametrize("share", [0, 0.6])
def test_a_truncated_compressed_file_is_an_error(rng, tmp_path, form, share):
    compressed = _FORMS[form](text_of(random_lines(rng, 50)))
    path = tmp_path / f"more{form}"
    path.write_bytes(compressed[: int(share * len(compressed))])
    with pytest.raises(InputError) as caught:
        list(sources.read_compressed(str(path), {".gz": "gzip", ".zst": "zstd"}[form]))
    assert caught.value.path == str(path)


@pytest.mark.parametrize("separator, name", [(",", "commas"), (";", "semicolons"), ("|", "bars")])
def test_explain_names_another_separator(rng, separator, name):
    line = random_lines(rng, 1)[0].replace("\t", separator)
    assert name in explain(line.encode())


@pytest.mark.parametrize("part_bytes", [1 << 20, 40000])
def test_many_malformed_lines_stop_the_run_early(
    rng, tmp_path, preprocess, monkeypatch, part_bytes
):
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    good = random_lines(rng, 500)
    path = _write(tmp_path, text_of([*good, *(f"{line}\t7" for line in good * 5)]))
    with pytest.raises(RejectedLinesError) as caught:
        preprocess(train_days=(0,))
    assert (caught.value.path, caught.value.line) == (str(path), 501)
    assert "41 fields" in str(caught.value)


def test_missing_and_double_parquet_columns_are_named(tmp_path):
    path = tmp_path / "day_0.parquet"
    columns = {name: pa.array([1]) for name in NAMES if name != "C7"}
    pq.write_table(pa.table({**columns, "c7": pa.array([1])}), path)
    with pytest.raises(InputError) as caught:
        parquet_input.ranges(str(path))
    assert (caught.value.path, caught.value.expected) == (str(path), ["C7"])
    assert "c7" in caught.value.found
    names = [*NAMES, "C3"]
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * len(names), names=names), path)
    with pytest.raises(InputError) as caught:
        parquet_input.ranges(str(path))
    assert (caught.value.path, caught.value.found) == (str(path), ["C3"])


def test_decode_batch_reads_text_as_plain_python_does(rng):
    """Every 32-bit limit, random digits, and bytes that are not digits."""
    wrong = ["x", "-", "--1", " 1", "1 ", "1.5", "0x1", "+1", "\xb2", "1\t", "9" * 20]
    integers = ["2147483647", "-2147483648", "2147483648", "-2147483649", "0" * 15 + "7",
                "0" * 16 + "7", "-0", "", "-0000002147483648"]  # fmt: skip
    digits = ["ffffffff", "FFFFFFFF", "100000000", "0", "", "aBcDeF", "0000000a", "g"]
    integers += [str(value) for value in rng.integers(-(2**33), 2**33, 40)]
    digits += [f"{value:x}" for value in rng.integers(0, 2**34, 40)]
    for position, name, fields in ((1, "I1", integers + wrong), (14, "C1", digits + wrong)):
        columns = {other: pa.array(["1"] * len(fields)) for other in NAMES}
        columns[name] = pa.array(fields)
        for kind in (pa.string(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())):
            columns[name] = columns[name].cast(kind)
            decoded = parquet_input.decode_batch(pa.RecordBatch.from_pydict(columns), "day")
            lines = ["\t".join([*"1" * position, f, *"1" * (39 - position)]) for f in fields]
            expected = [read_line(line) for line in lines]
            bad = [i for i, sample in enumerate(expected) if sample is None]
            assert [reject.line for reject in decoded.rejects] == bad
            good = [
                sample[1][0] if position == 1 else sample[2][0] for sample in expected if sample
            ]
            found = decoded.samples.dense if position == 1 else decoded.samples.values
            present = decoded.samples.dense_present if position == 1 else decoded.samples.present
            assert found[0].tolist() == [value or 0 for value in good]
            assert present[0].tolist() == [value is not None for value in good]
