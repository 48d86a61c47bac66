"""main.py where numbers go wrong, and where a flag must not change them."""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest

from tests.ranks.test_training_runs import start_long_job, train
from tests.support import launch

HUGE = 65504  # the largest float16
BATCH = 80


@pytest.fixture(scope="module")
def per_table(small_dataset, tmp_path_factory):
    """The small dataset with dense features as stored float16 values, 20,000 and 3,001 samples."""
    folder = tmp_path_factory.mktemp("per_table")
    for part in ("train", "test"):
        source = small_dataset / "raw" / f"{part}_data.bin"
        done = launch.run(1, "split_bin.py", source, folder / part, "--split_categories")
        assert done.returncode == 0, done.stderr
    return folder


def with_huge_batches(per_table, target, steps):
    """Copies the dataset with the largest finite dense features in all samples of some steps."""
    shutil.copytree(per_table, target)
    path = target / "train" / "dense.bin"
    dense = np.fromfile(path, np.float16).reshape(20000, 13)
    for step in steps:
        dense[(step - 1) * BATCH : step * BATCH] = HUGE
    dense.tofile(path)
    return target


def losses(events):
    return [event["loss"] for event in events if event["event"] == "step"]


@pytest.mark.parametrize(
    ("flag", "seen", "step", "rate"),
    [("--eval_in_last", "the loss is (nan|inf)", 20, r"1e\+30"),
     ("--eval_interval=4", "the AUC is not defined: the score or label of 3001 of 3001 samples is "
      "NaN or infinite", 4, r"8e\+29")],
)  # fmt: skip
def test_a_loss_that_is_no_number_ends_the_run(small_dataset, tmp_path, flag, seen, step, rate):
    flags = ("--lr=1e30", "--print_interval=1", "--loss_scale=8", flag)
    done, events, result = train(small_dataset, tmp_path, flags=flags)
    assert done.returncode == 3
    assert result is None
    assert "Traceback" not in done.stderr
    assert re.search(
        rf"^error: {seen} at step {step} \(looked at every 20 steps\), learning rate {rate}, "
        "loss scale 8; last good checkpoint: none: lower --lr",
        done.stderr, re.MULTILINE,
    ), done.stderr  # fmt: skip
    printed = losses(events)
    assert np.isfinite(printed[0])
    assert printed[-1] is None
    assert re.search(r"^step \d+/83  loss n/a ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("ranks", "scaling", "final_scale"),
    [(1, ("--nan_policy=skip",), None), (2, ("--loss_scale=dynamic",), 2.0**13)],
)
def test_steps_that_are_not_finite_are_left_out(per_table, tmp_path, ranks, scaling, final_scale):
    """float16 overflows in two batches: the run ends as if they had not been there."""
    flags = ("--amp", "--amp_dtype=float16", "--early_stop=30", "--print_interval=1")
    huge = with_huge_batches(per_table, tmp_path / "huge", steps=(4, 11))
    done, events, result = train(huge, tmp_path / "runs", ranks, BATCH, (*flags, *scaling))
    assert done.returncode == 0, done.stderr
    assert result["skipped_steps"] == 2
    assert result["auc"] > 0.5
    seen = losses(events)
    assert [step for step, loss in enumerate(seen, 1) if loss is None] == [4, 11]
    skipped = [event["skipped_steps"] for event in events if event["event"] == "step"]
    assert skipped == [0] * 3 + [1] * 7 + [2] * 20
    if final_scale is not None:
        last = [event for event in events if event["event"] == "step"][-1]
        assert last["loss_scale"] == final_scale


def test_a_hundred_skipped_steps_in_a_row_end_the_run(per_table, tmp_path):
    huge = with_huge_batches(per_table, tmp_path / "huge", steps=range(31, 251))
    flags = ("--amp", "--amp_dtype=float16", "--nan_policy=skip", "--eval_in_last")
    done, _, result = train(huge, tmp_path / "runs", 1, BATCH, flags)
    assert done.returncode == 3
    assert result is None
    assert "the last 110 steps were not finite and left out (110 in all) at step 140" in done.stderr


def test_overlap_gives_the_same_bytes(small_dataset, tmp_path):
    common = ("--early_stop=25", "--eval_in_last", "--print_interval=1", "--placement=row")
    runs = []
    for name in ("overlap", "nooverlap"):
        flags = (*common, "--compress", f"--{name}")
        done, events, result = train(small_dataset, tmp_path / name, 2, flags=flags)
        assert done.returncode == 0, done.stderr
        assert len(losses(events)) == 25
        runs.append((losses(events), result["auc"], result["log_loss"]))
    assert runs[0] == runs[1]


def test_evaluations_from_memory_are_the_same(small_dataset, tmp_path):
    scores = {}
    for name in ("cache_eval_data", "nocache_eval_data", "auc=binned"):
        flags = ("--early_stop=12", "--eval_interval=4", f"--{name}")
        done, events, _ = train(small_dataset, tmp_path / name, flags=flags)
        assert done.returncode == 0, done.stderr
        scores[name] = np.array(
            [(e["auc"], e["log_loss"]) for e in events if e["event"] == "evaluation"]
        )
        # After so few steps the AUC may be what guessing gives, and that be said.
        said = [e["text"] for e in events if e["event"] == "message"]
        assert not [text for text in said if not text.startswith("warning: AUC")]
    np.testing.assert_array_equal(scores["cache_eval_data"], scores["nocache_eval_data"])
    assert len(np.unique(scores["cache_eval_data"][:, 0])) == 3
    np.testing.assert_allclose(scores["auc=binned"], scores["cache_eval_data"], atol=1e-3)
    assert (scores["auc=binned"][:, 0] != scores["cache_eval_data"][:, 0]).all()


def test_a_request_to_stop_breaks_off_an_evaluation(small_dataset, tmp_path):
    """An evaluation after each step, of 1,501 batches: nearly all of the time is theirs."""
    flags = ("--noeval_in_last", "--eval_interval=1", "--global_batch_size=2", "--epochs=1")
    process, ranks = start_long_job(small_dataset, tmp_path, *flags)
    os.kill(ranks[1].pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert re.search(r"Process name: \d\s+Exit code: 130\s", out), out
    result = json.loads((tmp_path / "latest" / "result.json").read_text())
    assert result["stopped_by"] == "signal"
    events = [json.loads(line) for line in (tmp_path / "latest" / "journal.jsonl").open()]
    evaluated = [event["step"] for event in events if event["event"] == "evaluation"]
    # The last one was given up: training ends at the step that it was of.
    assert evaluated == list(range(1, result["steps"]))


@pytest.mark.parametrize(("extra", "parts"), [((), 1), (("--custom_interact",), 2)])
def test_xla_compiles_each_function_once(small_dataset, tmp_path, extra, parts):
    """One part, or two with the interaction's op between them; plans differ from step to step."""
    arguments = [
        "main.py", f"--data_dir={small_dataset}", "--global_batch_size=240", "--embedding_dim=8",
        f"--run_dir={tmp_path}", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.5",
        "--warmup_steps=5", "--decay_start_step=0", "--early_stop=15", "--nocache_eval_data",
        "--eval_in_last", "--xla", "--compress", "--placement=row", *extra,
    ]  # fmt: skip
    dumped = tmp_path / "xla"
    done = launch.run(1, *arguments, XLA_FLAGS=f"--xla_dump_to={dumped} --xla_dump_hlo_as_text")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "latest" / "result.json").read_text())
    assert result["steps"] == 15
    modules = sorted(path.name for path in dumped.glob("*.before_optimizations.txt"))
    # Of each part: forward with gradients, backward, forward of the evaluation.
    backward = [name for name in modules if "_backward_" in name]
    forward = [name for name in modules if ".a_forward_" in name]
    evaluating = [name for name in modules if name not in backward + forward]
    assert [len(backward), len(forward), len(evaluating)] == [parts] * 3, modules
