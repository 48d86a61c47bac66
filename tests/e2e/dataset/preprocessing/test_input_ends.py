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
from tests.support.dataset.preprocessing.fixtures import (
    random_lines,
    records_of,
    text_of,
    write_days,
)
from tests.support.dataset.preprocessing.plain_python import (
    make_dictionaries,
    read_line,
    to_records,
)

_MARK = b"\xef\xbb\xbf"
_FORMS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def _complete_line(rng, last="12345678"):
    """Returns a valid line whose last value is `last`."""
    return random_lines(rng, 1)[0].rpartition("\t")[0] + f"\t{last}"


@pytest.mark.parametrize("form", _FORMS)
def test_both_ends_of_a_day_are_reported(rng, tmp_path, preprocess, monkeypatch, form):
    """A byte order mark costs no sample; a truncated last line costs only itself."""
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1000)
    lines = random_lines(rng, 30)
    text = _MARK + "\n".join([*lines, _complete_line(rng)]).encode()[:-3]
    path = tmp_path / "days" / f"day_0{form}"
    path.parent.mkdir()
    path.write_bytes(_FORMS[form](text))
    report, logged = preprocess(train_days=(0,), max_rejects=Fraction(1, 10))
    assert report["inputs"] == {
        "files": 1, "empty": [], "without_final_newline": [str(path)],
        "byte_order_mark": [str(path)],
    }  # fmt: skip
    assert any(line.startswith(f"warning: {path}:31: ") for line in logged)
    assert any(line.startswith(f"{path}: ") for line in logged)
    assert report["rejected_lines"] == 1
    samples = [read_line(line) for line in lines]
    expected = to_records(samples, make_dictionaries(samples, 1000)[0], 1000)
    np.testing.assert_array_equal(records_of(tmp_path / "out" / "train_data.bin"), expected)
    rejected = (tmp_path / "out" / "rejects.tsv").read_text().split("\t")
    assert rejected[:2] == [str(path), "31"]
    assert "line end" in rejected[2]


@pytest.mark.parametrize("cut", [0, 1, 8, 9, 40])
def test_decode_unterminated_keeps_only_a_complete_last_line(rng, cut):
    text = text_of([*random_lines(rng, 9), _complete_line(rng)])
    text = text[: len(text) - 1 - cut]
    decoded = decode_unterminated(text + b"\n")
    assert (decoded.lines, len(decoded.samples)) == (10, 9 if cut else 10)
    assert [(r.line, r.text) for r in decoded.rejects] == [(9, text.split(b"\n")[-1])] * bool(cut)
    if 0 < cut < 8:
        assert decoded.rejects[0].reason.startswith(f"C26 {'12345678'[:-cut]!r}")


def test_a_carriage_return_completes_the_last_field(rng):
    text = text_of([*random_lines(rng, 9), _complete_line(rng, "12345")], "\r\n")
    decoded = decode_unterminated(text)
    assert (decoded.lines, decoded.rejects) == (10, [])
    cut = decode_unterminated(text[:-2] + b"\n")
    assert [reject.line for reject in cut.rejects] == [9]


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


@pytest.mark.parametrize("form", ["", ".gz", ".parquet"])
def test_a_day_without_samples_is_an_error(rng, tmp_path, preprocess, form):
    days = write_days(tmp_path, random_lines(rng, 20))
    path = days / f"day_1{form}"
    if form == ".parquet":
        columns = {name: pa.array([], pa.int64()) for name in NAMES}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_bytes(_FORMS[form](b""))
    with pytest.raises(InputError) as caught:
        preprocess(train_days=(0, 1))
    assert (caught.value.path, caught.value.found) == (str(path), 0)
    assert not (tmp_path / "out" / "train_data.bin").exists()
    if form == "":  # Found before anything is written.
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


@pytest.mark.parametrize("part_bytes", [1 << 20, 40000])
def test_many_malformed_lines_stop_the_run_early(
    rng, tmp_path, preprocess, monkeypatch, part_bytes
):
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    good = random_lines(rng, 500)
    path = write_days(tmp_path, [*good, *(f"{line}\t7" for line in good * 5)]) / "day_0"
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
