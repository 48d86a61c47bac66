"""Input that is cut, empty, or begins with a byte order mark: said, counted, never stored."""

import gzip
import json
import random
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dataset.preprocessing import native, parts, sources
from dataset.preprocessing.columns import NAMES
from dataset.preprocessing.errors import InputError, RejectedLinesError
from tests.support.dataset.preprocessing.fixtures import random_lines, records_of, write_days

_MARK = b"\xef\xbb\xbf"
_FORMS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.fixture(params=["native", "numpy"])
def decoder(request, monkeypatch):
    """Both decoders."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "load", lambda: None)
    elif native.load() is None:
        pytest.skip("the native kernels are not built")


def _whole_line(seed, last="12345678"):
    """Returns a good line whose last value is `last`."""
    return random_lines(seed, 1)[0].rpartition("\t")[0] + f"\t{last}"


def _write(folder, content, form=""):
    (folder / "days").mkdir(exist_ok=True)
    path = folder / "days" / f"day_0{form}"
    path.write_bytes(_FORMS[form](content))
    return path


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("cut", [1, 2, 5, 8, 9, 40])
def test_a_day_cut_in_its_last_line_loses_that_line_alone(
    tmp_path, preprocess, monkeypatch, form, cut
):
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    lines = [*random_lines(cut, 30), _whole_line(cut)]
    path = _write(tmp_path, "\n".join(lines).encode()[: -cut or None], form)
    report, said = preprocess(train_days=(0,), max_rejects=Fraction(1, 10))
    assert report["inputs"]["without_final_newline"] == [str(path)]
    warning = f"warning: {path}:31: the file ends without a line end: is it cut?"
    assert warning in said
    assert report["rejected_lines"] == 1
    assert len(records_of(tmp_path / "out" / "train_data.bin")) == 30
    rejected = (tmp_path / "out" / "rejects.tsv").read_text().split("\t")
    assert rejected[:2] == [str(path), "31"]
    assert "the file ends here without a line end" in rejected[2]
    if 0 < cut < 8:
        assert rejected[2].startswith(f"C26 {'12345678'[:-cut]!r} may be cut")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("form", _FORMS)
def test_a_whole_last_line_without_a_line_end_is_kept_and_said(tmp_path, preprocess, form):
    lines = [*random_lines(3, 30), _whole_line(3)]
    path = _write(tmp_path, "\n".join(lines).encode(), form)
    report, said = preprocess(train_days=(0,), max_rejects=0)
    assert report["rejected_lines"] == 0
    assert report["inputs"]["without_final_newline"] == [str(path)]
    assert any(line.startswith(f"warning: {path}:31: ") for line in said)
    assert len(records_of(tmp_path / "out" / "train_data.bin")) == 31


def test_a_carriage_return_ends_the_last_field(tmp_path, preprocess):
    text = "\r\n".join([*random_lines(3, 9), _whole_line(4, "12345"), ""])
    _write(tmp_path, text.encode()[:-1])
    report, _ = preprocess(train_days=(0,), max_rejects=0)
    assert (report["lines"], report["rejected_lines"]) == (10, 0)
    assert len(report["inputs"]["without_final_newline"]) == 1


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_do_not_matter(tmp_path, preprocess, end):
    lines = random_lines(11, 50)
    _write(tmp_path, "".join(line + end for line in lines).encode())
    report, _ = preprocess(train_days=(0,), max_rejects=0)
    assert report["inputs"] == {
        "files": 1, "empty": [], "without_final_newline": [], "byte_order_mark": [],
    }  # fmt: skip
    found = records_of(tmp_path / "out" / "train_data.bin")
    assert len(found) == 50
    assert found[:, 0].tolist() == [int(line[0]) for line in lines]


def test_no_reject_is_allowed_where_none_is(tmp_path, preprocess):
    """One of twenty thousand: less than the default limit."""
    line = _whole_line(8)
    _write(tmp_path, "".join(f"{line}\n" for _ in range(20000)).encode() + b"2\n")
    with pytest.raises(
        RejectedLinesError, match=r"1 of 20001 lines are malformed .*day_0:20001: 1 field,"
    ):
        preprocess(train_days=(0,), max_rejects=Fraction(0))
    report, _ = preprocess(train_days=(0,))
    assert report["rejected_lines"] == 1


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("form", _FORMS)
def test_a_byte_order_mark_costs_no_sample(tmp_path, preprocess, monkeypatch, form):
    monkeypatch.setattr(parts, "PART_BYTES", 2500)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1000)
    seed = random.randrange(10**9)
    text = "".join(line + "\n" for line in random_lines(seed, 40)).encode()
    path = _write(tmp_path, text, form)
    preprocess(train_days=(0,), max_rejects=0)
    plain = records_of(tmp_path / "out" / "train_data.bin")
    _write(tmp_path, _MARK + text, form)
    report, said = preprocess(train_days=(0,), max_rejects=0, output=str(tmp_path / "marked"))
    np.testing.assert_array_equal(records_of(tmp_path / "marked" / "train_data.bin"), plain)
    assert report["inputs"]["byte_order_mark"] == [str(path)], seed
    assert f"{path}: begins with a byte order mark, which is left out" in said


@pytest.mark.parametrize(
    "content, what",
    [
        ("0\t1\n".encode("utf-16"), "is text in UTF-16: .*iconv -f UTF-16"),
        (b"\xfe\xff" + "0\t1\n".encode("utf-16-be"), "is text in UTF-16: .*iconv -f UTF-16"),
        ("0\t1\n".encode("utf-32"), "is text in UTF-32: .*iconv -f UTF-32"),
        (gzip.compress(b"0\t1\n", mtime=0) + b"\n", r"is gzip data: .* ends in \.gz"),
        (zstandard.compress(b"0\t1\n") + b"\n", r"is zstd data: .* ends in \.zst"),
        (b"PAR1\n", r"is a Parquet file: .* ends in \.parquet"),
        (b"PK\x03\x04\n", "is a zip archive: .* unpack it"),
        (b"BZh91AY\n", "is bzip2 data: .* unpack it"),
    ],
)
def test_other_data_than_text_is_named(tmp_path, preprocess, content, what):
    path = _write(tmp_path, content)
    with pytest.raises(InputError, match=f"{path}: {what}"):
        preprocess(train_days=(0,))


@pytest.mark.parametrize("form", [*_FORMS, ".parquet"])
def test_a_day_without_samples_is_an_error(tmp_path, preprocess, form):
    days = write_days(tmp_path, random_lines(1, 20))
    path = days / f"day_1{form}"
    if form == ".parquet":
        columns = {name: pa.array([], pa.int64()) for name in NAMES}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_bytes(_FORMS[form](b""))
    message = f"{path}: no sample of day 1: .* get the day again"
    with pytest.raises(InputError, match=message):
        preprocess(train_days=(0, 1))
    with pytest.raises(InputError, match=message):
        preprocess(test_fraction=Fraction(1, 2), output=str(tmp_path / "fraction"))
    assert not (tmp_path / "out" / "train_data.bin").exists()
    report, _ = preprocess(train_days=(0,))
    assert report["lines"] == 20


def test_a_zero_byte_day_is_found_before_anything_is_written(tmp_path, preprocess):
    days = write_days(tmp_path, random_lines(1, 20))
    (days / "day_1.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"day_1\.gz: no sample of day 1"):
        preprocess(train_days=(0, 1))
    assert not (tmp_path / "out").exists()


def test_an_empty_file_beside_others_is_said_and_counted(tmp_path, preprocess):
    """As Spark writes an empty partition."""
    folder = tmp_path / "days" / "day_0"
    folder.mkdir(parents=True)
    (folder / "part-0").write_text("".join(line + "\n" for line in random_lines(1, 20)))
    (folder / "part-1").write_bytes(b"")
    columns = {name: pa.array([], pa.int64()) for name in NAMES}
    pq.write_table(pa.table(columns), folder / "part-2.parquet")
    report, said = preprocess(train_days=(0,))
    empty = [str(folder / "part-1"), str(folder / "part-2.parquet")]
    assert report["inputs"]["empty"] == empty
    assert {f"warning: {path}: is empty" for path in empty} <= set(said)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["inputs"] == report["inputs"]


@pytest.mark.parametrize("form", [".gz", ".zst"])
@pytest.mark.parametrize("left", [0, 0.6])
def test_a_cut_compressed_file_is_an_error(tmp_path, preprocess, form, left):
    days = write_days(tmp_path, random_lines(1, 200))
    whole = _FORMS[form]((days / "day_0").read_bytes())
    # No day in its name: the file's own cut, not the day's.
    (days / f"more.tsv{form}").write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(InputError, match=rf"more\.tsv{form}: truncated: the compressed stream"):
        preprocess(input=str(days / "more*"), test_fraction=Fraction(1, 2))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "day_0"
    path.write_bytes(b"0\t1\n" * 10)
    for begin in (0, 30, 42):
        with pytest.raises(InputError, match="was cut while it was read: expected 60 bytes"):
            list(sources.read_range(str(path), begin, 60))


@pytest.mark.parametrize("separator, name", [(",", "commas"), (";", "semicolons"), ("|", "bars")])
def test_another_separator_is_named(tmp_path, preprocess, separator, name):
    text = "".join(line.replace("\t", separator) + "\n" for line in random_lines(1, 9))
    path = _write(tmp_path, text.encode())
    message = f"{path}:1: 1 field, expected 40 separated by tabs, found {name}"
    with pytest.raises(RejectedLinesError, match=message):
        preprocess(train_days=(0,))


@pytest.mark.parametrize("part_bytes", [1 << 20, 40000])
def test_the_first_malformed_line_is_named_early(tmp_path, preprocess, monkeypatch, part_bytes):
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    good = [line + "\n" for line in random_lines(2, 500)]
    path = _write(tmp_path, "".join(good + [line[:-1] + "\t7\n" for line in good * 5]).encode())
    message = rf"many more than --max_rejects .*{path}:501: 41 fields, expected 40"
    with pytest.raises(RejectedLinesError, match=message):
        preprocess(train_days=(0,))


def test_parquet_columns_are_named(tmp_path, preprocess):
    path = _write(tmp_path, b"").with_suffix(".parquet")
    columns = {name: pa.array([1]) for name in NAMES if name != "C7"}
    pq.write_table(pa.table({**columns, "c7": pa.array([1])}), path)
    path.with_suffix("").unlink()
    message = r"lacks the columns C7: expected label, .*, found label, I1, .*C6, C8, .*, C26, c7"
    with pytest.raises(InputError, match=message):
        preprocess(train_days=(0,))
    names = [*NAMES, "C3"]
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * len(names), names=names), path)
    with pytest.raises(InputError, match=f"{path}: has the columns C3 twice"):
        preprocess(train_days=(0,))
