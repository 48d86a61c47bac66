"""What `--mode=plan` prints, through the command that a user would type."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from model.embedding.placement import PlacementError, plan
from model.embedding.placement_file import placement_text
from planner.arguments import precision_of, read_vocab_sizes, read_widths
from planner.plan import main, render
from planner.planned_run import Machines, PlannedRun, Tables
from planner.published_runs import VOCABULARIES
from planner.workload import ModelShape
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR

MLPERF = VOCABULARIES["mlperf"]


def test_plan_of_the_seed_benchmark_run(capsys):
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
        if "beside the rest" not in line:
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


def test_tables_that_do_not_fit_are_an_error_that_says_how_many_ranks_would_do(capsys):
    assert main(["--ranks", "2", "--device", "a100-40gb"]) == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    assert "16,068,456,960 bytes (16.07 GB) are missing per rank" in output.err
    assert "table 19" in output.err
    assert "They fit on 4, 8, 16, 32, 64 ranks." in output.err
    with pytest.raises(PlacementError, match="They fit on none of 1, 2, 4, 8, 16, 32, 64 ranks"):
        render(PlannedRun(ModelShape(MLPERF), Machines(memory_per_rank=1000)))


def test_full_size_tables_on_eighty_ranks():
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


def test_rowwise_adagrad_refuses_column_halves(tmp_path, capsys):
    words = ["--ranks", "2", "--optimizer", "rowwise_adagrad", "--column_split"]
    assert main(words) == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: --column_split does not go with row-wise Adagrad")
    halves = plan((100,), 4, 2, policy="table", column_split="auto", bytes_per_rank=800)
    path = tmp_path / "halves.json"
    path.write_text(placement_text(halves))
    run = PlannedRun(ModelShape((100,), 4, bottom_mlp=(4,)), Machines(2), global_batch_size=64)
    with pytest.raises(PlacementError, match=r"halves.json: table 0: its rows are halved by col"):
        render(dataclasses.replace(run, tables=Tables("rowwise_adagrad", str(path))))
    assert "0c[0:2]" in render(dataclasses.replace(run, tables=Tables("adagrad", str(path))))


def test_placement_by_hand_and_adagrad(tmp_path):
    path = tmp_path / "by_hand.json"
    sizes = (100, 50, 3)
    path.write_text(placement_text(plan(sizes, 4, 2, policy="row")))
    run = PlannedRun(
        ModelShape(sizes, 4, bottom_mlp=(4,)), Machines(2), Tables("adagrad", str(path)),
        global_batch_size=64,
    )  # fmt: skip
    text = render(run)
    assert "0r 1r 2r" in text
    assert f"{153 * 32 / 1e3:.2f} kB with adagrad" in text
    path.write_text(path.read_text().replace('"row"', '"wide"', 1))
    with pytest.raises(PlacementError, match="table 0: kind is 'wide'"):
        render(run)
    with pytest.raises(PlacementError, match="cannot read the placement file"):
        render(dataclasses.replace(run, tables=Tables(placement=str(tmp_path / "nowhere.json"))))


def test_precision_follows_the_device():
    assert precision_of("a100-80gb", False) == "tf32"
    assert precision_of("v100-32gb-dgx2", False) == "fp32"
    assert precision_of("h200-141gb", True) == "fp16"
    assert precision_of("cpu-amx", True) == "bf16"
    assert precision_of("cpu", False) == "fp32"


def test_cpu_has_no_memory_limit_of_its_own():
    text = render(
        PlannedRun(ModelShape((1000, 20)), Machines(2, "cpu"), global_batch_size=512, compress=True)
    )
    assert "no limit given" in text
    assert "unique ids" in text


def test_table_sizes_from_name_list_and_files(tmp_path):
    assert read_vocab_sizes("mlperf") == MLPERF
    assert read_vocab_sizes("5, 6,7") == (5, 6, 7)
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({"vocab_sizes": [4, 5], "samples": 3}))
    assert read_vocab_sizes(str(path)) == (4, 5)
    path.write_text("[4, 5]")
    assert read_vocab_sizes(str(path)) == (4, 5)
    for text, message in (
        ('{"sizes": [4]}', "vocab_sizes: is missing"),
        ('["4"]', r"\[0\]: expected int, found '4'"),
        ("[true]", r"\[0\]: expected int, found true"),
        ("[4, 0]", r"\[1\]: expected int >= 1, found 0"),
        ("[]", "expected list of length >= 1"),
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deep"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_vocab_sizes(str(path))
    with pytest.raises(ValueError, match="--vocab_sizes=criteo: expected a file, a comma-separ"):
        read_vocab_sizes("criteo")


@pytest.mark.parametrize(
    "text",
    ["", "1,,2", "1,2,", ",1", "1 2", "1,-2", "1,0", "[1,2", "1,2]", "[[1,2]]", "1.5", "1,+2",
     "1_0", "01", "99999999999", "1;2", "\u0661,\u0662"],
)  # fmt: skip
def test_lists_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"--vocab_sizes=.*: expected"):
        read_vocab_sizes(text)
    if text != "99999999999":
        with pytest.raises(ValueError, match=r"--top_mlp=.*: expected positive integers"):
            read_widths("top_mlp", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--global_batch_size 100 --ranks 8", "8 ranks do not divide a global batch of 100"),
        ("--embedding_dim 64", "must be as wide as an embedding vector"),
        ("--bottom_mlp 512,wide", "--bottom_mlp=512,wide: expected positive integers"),
        ("--vocab_sizes 5,0", "--vocab_sizes=5,0: expected positive integers of at most"),
        ("--placement nowhere.json", "nowhere.json: cannot read"),
        ("--memory_per_rank lots", "--memory_per_rank=lots: expected a size"),
        ("--network_bandwidth fast", "--network_bandwidth=fast: expected a size"),
    ],
)
def test_mistakes_are_one_clear_error(arguments, message, capsys):
    assert main(["--device", "h200-141gb", *arguments.split()]) == EXIT_USER_ERROR
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    "flag",
    ["ranks", "global_batch_size", "embedding_dim", "replicate_below_rows", "unique_fraction"],
)
@pytest.mark.parametrize("value", ["9" * 20, "-1", "nan", "1_0", "9" * 5000])
def test_numbers_out_of_range_are_refused(flag, value, capsys):
    with pytest.raises(SystemExit) as ended:
        main([f"--{flag}={value}"])
    assert ended.value.code == EXIT_USER_ERROR
    assert f"argument --{flag}: expected a " in capsys.readouterr().err


def test_unknown_device_and_optimizer():
    with pytest.raises(ValueError, match="unknown device 'gtx'"):
        Machines(device="gtx")
    with pytest.raises(ValueError, match="unknown optimizer 'lamb'"):
        Tables(optimizer="lamb")


def test_command_imports_no_tensorflow():
    code = (
        "import sys; from planner.plan import main; status = main(['--ranks', '8']); "
        "loaded = {'tensorflow', 'keras', 'numpy', 'horovod', 'absl'} & set(sys.modules); "
        "sys.exit(status or bool(loaded))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
