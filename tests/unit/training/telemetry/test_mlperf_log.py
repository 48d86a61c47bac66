"""The MLPerf log: lines for events, MLPerf's checkers on it, files that it must not replace."""

import copy
import importlib
import importlib.util
import os
import sys
import time

import pytest

from tests.support.training.telemetry.mlperf_logs import check, read, values, write
from training import cli
from training.config import Config
from training.runtime.errors import UserError
from training.telemetry.mlperf_log import MLPerfLog

rcp_checker = pytest.importorskip("mlperf_logging.rcp_checker.rcp_checker")


@pytest.fixture(autouse=True)
def recent_process(monkeypatch):
    """The checker allows 30 minutes of initialisation; the process of the tests may be older."""
    monkeypatch.setattr("psutil.Process.create_time", lambda process: time.time() - 5)


def config(path, **changed):
    values = {
        "mlperf_org": "o", "mlperf_platform": "p", "seed": 7, "global_batch_size": 64,
        "auc_threshold": 0.8, **changed,
    }  # fmt: skip
    return Config().with_values(mlperf_log=str(path), **values)


CONFIG = {
    "event": "config", "steps_per_epoch": 10, "resumed_from_step": None,
    "schedule": {"base_rate": 24.0, "warmup_steps": 3, "decay_start_step": 5, "decay_steps": 4,
                 "end_rate": 0.0, "power": 2.0},
    "data": {"train_samples": 640, "test_samples": 100},
}  # fmt: skip


def play(path, *events, close=True, **changed):
    """Writes a log of the events; returns its lines."""
    log = MLPerfLog(config(path, **changed))
    for event in events:
        log.event(event)
    if close:
        log.close()
    return read(path)


def evaluation(step, auc):
    return {"event": "evaluation", "step": step, "auc": auc, "seconds": 0.5}


def epoch(number):
    return {"event": "epoch", "epoch": number, "step": 10 * number}


@pytest.mark.parametrize(
    ("auc", "status"), [(0.81, "success"), (0.8, "aborted"), (0.1, "aborted"), (None, "aborted")]
)
def test_run_status_is_success_above_auc_threshold(tmp_path, caplog, auc, status):
    lines = play(
        tmp_path / "log", CONFIG, epoch(0), evaluation(5, 0.5), epoch(1), evaluation(20, auc),
        {"event": "end", "steps": 20},
    )  # fmt: skip
    assert lines[-1]["key"] == "run_stop"
    assert lines[-1]["metadata"]["status"] == status
    keys = [line["key"] for line in lines[index(lines, "run_start") :]]
    once = ["eval_start", "eval_accuracy", "eval_stop", "epoch_stop", "block_stop"]
    assert keys == ["run_start", *["block_start", "epoch_start", *once] * 2, "run_stop"]
    assert [line["metadata"]["epoch_num"] for line in lines if line["key"] == "eval_stop"] == [
        1.5, 3
    ]  # fmt: skip
    # The checker's own threshold is 0.8025.
    assert check(tmp_path / "log", caplog)[0] == (auc is not None and auc > 0.8025)


def test_run_without_end_event_is_aborted(tmp_path):
    lines = play(tmp_path / "log", CONFIG, epoch(0), evaluation(5, 0.9))
    assert [line["key"] for line in lines[-3:]] == ["epoch_stop", "block_stop", "run_stop"]
    assert lines[-1]["metadata"]["status"] == "aborted"


def test_job_without_config_event_has_no_run(tmp_path):
    keys = {line["key"] for line in play(tmp_path / "log")}
    assert "init_start" in keys
    assert not {"init_stop", "run_start", "run_stop"} & keys


def test_lines_are_flushed_before_close(tmp_path):
    lines = play(tmp_path / "log", CONFIG, epoch(0), evaluation(5, 0.9), close=False)
    assert lines[-1]["key"] == "eval_stop"


@pytest.mark.parametrize(
    ("changed", "config", "absent", "present"),
    [
        ({}, {}, {"opt_sparse_name", "opt_sparse_base_learning_rate"}, {"weights_initialization"}),
        (
            {"embedding_optimizer": "adagrad"}, {},
            {"sgd_opt_base_learning_rate", "sgd_opt_learning_rate_decay_steps"},
            {"opt_sparse_name"},
        ),
        ({"optimizer": "adam"}, {}, {"sgd_opt_learning_rate_decay_poly_power"}, {"opt_name"}),
        ({"embedding_lr": 3.0}, {}, set(), {"opt_sparse_base_learning_rate"}),
        ({"restore": "folder"}, {}, {"weights_initialization"}, {"run_start"}),
        ({}, {"resumed_from_step": 4}, {"weights_initialization"}, {"run_start"}),
    ],
)  # fmt: skip
def test_hyperparameters_depend_on_configuration(tmp_path, changed, config, absent, present):
    keys = {line["key"] for line in play(tmp_path / "log", {**CONFIG, **config}, **changed)}
    assert not absent & keys
    assert present <= keys


def test_both_seeds_are_logged(tmp_path):
    assert values(play(tmp_path / "log", CONFIG, shuffle_seed=9), "seed") == [7, 9]


def test_existing_logs_are_renamed(tmp_path):
    for number in range(3):
        play(tmp_path / "new" / "log", seed=number, mlperf_org=f"org{number}")
    kept = {path.name: values(read(path), "submission_org") for path in tmp_path.glob("new/*")}
    assert kept == {"log.1": ["org0"], "log.2": ["org1"], "log": ["org2"]}


def test_log_that_cannot_be_created_is_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        MLPerfLog(config(tmp_path / "file" / "log"))
    assert (caught.value.flag, caught.value.path) == ("mlperf_log", str(tmp_path / "file" / "log"))


def test_only_regular_files_are_renamed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").touch()
    for name in ("pipe", "device", "data"):
        with pytest.raises(UserError) as caught:
            MLPerfLog(config(tmp_path / name))
        assert (caught.value.flag, caught.value.path) == ("mlperf_log", str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "device", "pipe"]
    assert (tmp_path / "data" / "train").exists()


@pytest.fixture
def complete_log(tmp_path):
    """The lines of a run that reaches AUC 0.81, as MLPerf requires."""
    return play(
        tmp_path / "complete", CONFIG, epoch(0), evaluation(9, 0.81), {"event": "end", "steps": 9}
    )


def test_compliance_checker_accepts_complete_log(complete_log, tmp_path, caplog):
    passed, messages = check(tmp_path / "complete", caplog)
    assert passed, messages
    assert "training_2.1.0/closed_dlrm.yaml" in messages
    assert "WARNING" not in messages


def index(lines, key):
    return next(i for i, line in enumerate(lines) if line["key"] == key)


def without(key, nth=0):
    def edit(lines):
        del lines[[i for i, line in enumerate(lines) if line["key"] == key][nth]]

    return edit


def valued(key, value):
    def edit(lines):
        for line in lines:
            if line["key"] == key:
                line["value"] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (without("run_stop"), "EXACTLY_ONE occurrence of 'run_stop' but found 0"),
        (without("weights_initialization", -1), "initialized_tensors"),
        (valued("eval_accuracy", 0.8), "Failed checks for eval_accuracy"),
    ],
)
def test_compliance_checker_rejects_broken_log(complete_log, tmp_path, caplog, edit, complaint):
    edit(complete_log)
    passed, messages = check(write(tmp_path / "broken.txt", complete_log), caplog)
    assert not passed
    assert complaint in messages


@pytest.mark.parametrize(
    ("epochs", "aborted", "passes", "message"),
    [
        ([1.9] * 5, 0, True, "RCP found"),
        ([1.5] * 5, 0, False, "RCP found"),
        ([1.9] * 5, 2, False, "Insufficient convergence"),
    ],
)
def test_convergence_checker_judges_five_logs(
    complete_log, tmp_path, monkeypatch, epochs, aborted, passes, message
):
    # The package still has DLRM's reference points, but no longer its number of runs (five).
    monkeypatch.setitem(rcp_checker.submission_runs["training"], "dlrm", 5)
    for run, epoch in enumerate(epochs):
        lines = copy.deepcopy(complete_log)
        valued("global_batch_size", 55296)(lines)
        for line in lines:
            if line["key"] == "eval_accuracy":
                line["metadata"]["epoch_num"] = epoch
            if line["key"] == "run_stop" and run < aborted:
                line["metadata"]["status"] = "aborted"
        write(tmp_path / f"result_{run}.txt", lines)
    passed, found, _ = rcp_checker.check_directory(
        str(tmp_path), "training", "2.1.0", False, False, rcp_pass="full_rcps"
    )
    assert (bool(passed), found) == (passes, message)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--mlperf_org=x"], "mlperf_org"),
        (["--mlperf_log=x", "--use_synthetic_dataset"], "mlperf_log"),
        (["--mlperf_log=x", "--mode=plan"], "mlperf_log"),
        (["--mlperf_log=x", "--mlperf_platform= "], "mlperf_platform"),
        (["--mlperf_log=x", "--mlperf_status=sold"], "mlperf_status"),
    ],
)
def test_flags_without_effect_are_rejected(arguments, flag):
    with pytest.raises(UserError) as caught:
        cli.parse(["main.py", "--data_dir=x", "--global_batch_size=8", *arguments])
    assert caught.value.flag == flag


def test_package_is_needed_only_with_flag(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name.startswith("mlperf_logging") else find_spec(name, *rest),
    )
    for name in [n for n in sys.modules if n.split(".")[0] == "mlperf_logging"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlperf_logging", None)
    monkeypatch.delitem(sys.modules, "training.telemetry.mlperf_log")
    importlib.import_module("training.telemetry.mlperf_log")
    cli.parse(["main.py", "--data_dir=x", "--global_batch_size=8"])
    with pytest.raises(UserError) as caught:
        cli.parse(["main.py", "--mlperf_log=x"])
    assert caught.value.flag == "mlperf_log"
    assert "-m pip" in str(caught.value)
