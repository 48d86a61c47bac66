"""The plan that `--mode=plan` prints, its arguments and errors."""

import dataclasses
import json
import re

import pytest

from model.embedding.placement import PlacementError
from planner.arguments import ArgumentError, read_hotness, read_vocab_sizes, read_widths
from planner.plan import main, render
from planner.planned_run import Machines, PlannedRun, Tables
from planner.published_runs import VOCABULARIES
from planner.workload import ModelShape
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR

MLPERF = VOCABULARIES["mlperf"]


def write_placement(folder, *entries):
    path = folder / "placement.json"
    path.write_text(json.dumps({"tables": entries}))
    return str(path)


def test_plan_of_the_sok_benchmark(capsys):
    assert (
        main(["--ranks", "8", "--device", "a100-80gb", "--global_batch_size", "65536", "--amp"])
        == EXIT_OK
    )
    text = capsys.readouterr().out
    assert "26 tables, 187,767,399 rows of 128 float32, 96.14 GB with sgd" in text
    assert "8 x a100-80gb, at most 64.00 GB of tables a rank; global batch 65,536" in text
    lines = text.splitlines()
    start = lines.index("Placement") + 2
    assert [line.split()[0] for line in lines[start : start + 8]] == list("01234567")
    phases = lines.index("One step (the busiest rank)") + 2
    milliseconds = []
    for line in lines[phases:]:
        if line.startswith("  step   "):
            total = float(line.split()[1])
            break
        if "in parallel" not in line:
            milliseconds.append(float(line[58:67]))
    assert total == pytest.approx(sum(milliseconds), abs=0.01)
    rate = float(re.search(r"([\d.]+) M samples/s;", text)[1])
    assert rate == pytest.approx(65536 / total / 1e3, rel=1e-3)
    # 4 of 26 tables, float16 vectors of the global batch, both ways.
    assert "exchanged 134.22 MB a rank" in text
    assert 2 * 4 * 65536 * 128 * 2 == 134_217_728
    table = lines[lines.index("The same global batch on other numbers of ranks (a100-80gb)") + 2 :]
    assert [line.split()[0] for line in table[:7]] == ["1", "2", "4", "8", "16", "32", "64"]
    assert table[0].endswith("does not fit: 32.14 GB missing on a rank (table 19)")


def test_plan_of_tables_that_do_not_fit_lists_enough_ranks(capsys):
    assert main(["--ranks", "2", "--device", "a100-40gb"]) == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    for value in ("16,068,456,960 bytes", "table 19", " 4, 8, 16, 32 or 64 ranks"):
        assert value in output.err
    with pytest.raises(PlacementError, match="64 ranks") as caught:
        render(PlannedRun(ModelShape(MLPERF), Machines(memory_per_rank=1000)))
    assert caught.value.table == 19 and caught.value.missing_bytes > 0


def test_plan_of_full_size_tables_on_eighty_ranks():
    text = render(
        PlannedRun(
            ModelShape(VOCABULARIES["full"]), Machines(80, "a100-40gb"), global_batch_size=65520
        )
    )
    assert "0r 9r 19r 20r 21r" in text
    assert "the busiest rank serves" in text
    assert "     32  does not divide the global batch of 65,520" in text
    scale = dict(line.split(maxsplit=1) for line in text.splitlines()[-10:-2])
    assert list(scale) == ["1", "2", "4", "8", "16", "32", "64", "80"]
    assert scale["8"].startswith("does not fit")
    assert scale["16"].split()[0] == "21/5/0"  # table-, row- and column-wise tables


def test_rowwise_adagrad_refuses_column_wise_tables(tmp_path, capsys):
    words = ["--ranks", "2", "--optimizer", "rowwise_adagrad", "--column_split"]
    assert main(words) == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: ") and "--column_split" in line
    path = write_placement(tmp_path, {"table": 0, "kind": "column", "ranks": [0, 1]})
    run = PlannedRun(ModelShape((100,), 4, bottom_mlp=(4,)), Machines(2), global_batch_size=64)
    with pytest.raises(PlacementError) as caught:
        render(dataclasses.replace(run, tables=Tables("rowwise_adagrad", path)))
    assert (caught.value.path, caught.value.table) == (path, 0)
    assert "0c[0:2]" in render(dataclasses.replace(run, tables=Tables("adagrad", path)))


def test_plan_reads_a_placement_file_and_counts_adagrads_state(tmp_path):
    path = write_placement(tmp_path, *({"table": table, "kind": "row"} for table in range(3)))
    run = PlannedRun(
        ModelShape((100, 50, 3), 4, bottom_mlp=(4,)), Machines(2), Tables("adagrad", path),
        global_batch_size=64,
    )  # fmt: skip
    text = render(run)
    assert "0r 1r 2r" in text
    assert f"{153 * 32 / 1e3:.2f} kB with adagrad" in text
    missing = str(tmp_path / "missing.json")
    with pytest.raises(PlacementError) as caught:
        render(dataclasses.replace(run, tables=Tables(placement=missing)))
    assert caught.value.path == missing


@pytest.mark.parametrize(
    ("device", "amp", "precision"),
    [("a100-80gb", False, "tf32"), ("v100-32gb-dgx2", False, "fp32"), ("h200-141gb", True, "fp16"),
     ("cpu-amx", True, "bf16"), ("cpu", False, "fp32")],
)  # fmt: skip
def test_precision_of_each_device(device, amp, precision):
    run = PlannedRun(ModelShape((5,)), Machines(device=device), amp=amp)
    assert run.precision == precision
    without = dataclasses.replace(run, tf32=False)
    assert without.precision == ("fp32" if precision == "tf32" else precision)


def test_vocab_sizes_from_a_name_a_list_and_files(tmp_path):
    assert read_vocab_sizes("mlperf") == MLPERF
    assert read_vocab_sizes("5, 6,7") == (5, 6, 7)
    path = tmp_path / "metadata.json"
    for content in ({"vocab_sizes": [4, 5], "samples": 3}, [4, 5]):
        path.write_text(json.dumps(content))
        assert read_vocab_sizes(str(path)) == (4, 5)


def test_hotness_from_a_name_a_list_and_files(tmp_path):
    assert sum(read_hotness("hotness", "mlperf")) == 214
    assert read_hotness("hotness", "5, 6,7") == (5, 6, 7)
    path = tmp_path / "metadata.json"
    for content in ({"vocab_sizes": [9, 9], "hotness_per_table": [4, 5]}, [4, 5]):
        path.write_text(json.dumps(content))
        assert read_hotness("hotness", str(path)) == (4, 5)
    path.write_text('{"vocab_sizes": [9, 9]}')
    with pytest.raises(ValueError, match="hotness_per_table") as caught:
        read_hotness("hotness", str(path))
    assert caught.value.path == str(path)
    with pytest.raises(ArgumentError) as caught:
        read_hotness("hotness", "criteo")
    assert caught.value.flag == "hotness"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"sizes": [4]}', "vocab_sizes"),
        ('["4"]', r"\[0\].*'4'"),
        ("[true]", r"\[0\].*true"),
        ("[4, 0]", r"\[1\].* 0"),
        ("[]", "1"),
        ("{", "JSON"),
        ("[" * 100_000, "nested"),
    ],
)
def test_vocab_sizes_file_with_other_content_is_refused(tmp_path, text, names):
    path = tmp_path / "metadata.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=names) as caught:
        read_vocab_sizes(str(path))
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "text",
    ["criteo", "", "1,,2", "1,2,", ",1", "1 2", "1,-2", "1,0", "[1,2", "1,2]", "[[1,2]]", "1.5",
     "1,+2", "1_0", "01", "99999999999", "1;2", "\u0661,\u0662"],
)  # fmt: skip
def test_invalid_lists_of_integers_are_refused(text):
    with pytest.raises(ArgumentError) as caught:
        read_vocab_sizes(text)
    assert (caught.value.flag, caught.value.found) == ("vocab_sizes", text)
    if text != "99999999999":
        with pytest.raises(ArgumentError) as caught:
            read_widths("top_mlp", text)
        assert (caught.value.flag, caught.value.found) == ("top_mlp", text)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("--global_batch_size 100 --ranks 8", "8 (ranks) above 0, found 100"),
        ("--embedding_dim 64", "width of 64"),
        ("--bottom_mlp 512,wide", "--bottom_mlp=512,wide"),
        ("--vocab_sizes 5,0", "--vocab_sizes=5,0"),
        ("--placement missing.json", "missing.json"),
        ("--memory_per_rank lots", "--memory_per_rank=lots"),
        ("--network_bandwidth fast", "--network_bandwidth=fast"),
    ],
)
def test_command_prints_errors_without_a_traceback(arguments, names, capsys):
    assert main(["--device", "h200-141gb", *arguments.split()]) == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert names in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    "flag",
    ["ranks", "global_batch_size", "embedding_dim", "replicate_below_rows", "unique_fraction"],
)
@pytest.mark.parametrize("value", ["9" * 20, "-1", "nan", "1_0", "9" * 5000])
def test_command_refuses_numbers_out_of_range(flag, value, capsys):
    with pytest.raises(SystemExit) as ended:
        main([f"--{flag}={value}"])
    assert ended.value.code == EXIT_USER_ERROR
    assert f"--{flag}" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["cross_layers", "cross_rank"])
def test_command_refuses_cross_flags_of_another_interaction(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        main([f"--{flag}=3"])
    assert ended.value.code == EXIT_USER_ERROR
    assert f"--{flag}" in capsys.readouterr().err


def test_unknown_device_is_refused():
    with pytest.raises(ArgumentError) as caught:
        Machines(device="gtx")
    assert (caught.value.flag, caught.value.found) == ("device", "gtx")
