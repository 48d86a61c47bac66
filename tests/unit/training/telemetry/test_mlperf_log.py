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


# A run of DLRM-DCNv2 on Criteo Terabyte at MLPerf's reference convergence point of 55,296.
DCNV2 = {
    "interaction": "cross", "optimizer": "adagrad", "embedding_optimizer": "adagrad", "lr": 0.004,
    "global_batch_size": 55296, "auc_threshold": 0.80275,
}  # fmt: skip
DCNV2_CONFIG = {
    **CONFIG, "steps_per_epoch": 75869,
    "schedule": {"base_rate": 0.004, "warmup_steps": 0, "decay_start_step": None,
                 "decay_steps": 0, "end_rate": 0.0, "power": 2.0},
    "data": {"train_samples": 4195197692, "test_samples": 89137319},
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
        (
            DCNV2, {},
            {"lr_decay_start_steps", "sgd_opt_base_learning_rate", "opt_sparse_name"},
            {"opt_adagrad_epsilon", "opt_learning_rate_decay_start_step", "opt_weight_decay"},
        ),
        ({**DCNV2, "interaction": "dot"}, {}, {"opt_adagrad_epsilon"}, {"lr_decay_start_steps"}),
        (
            {**DCNV2, "embedding_optimizer": "rowwise_adagrad"}, {},
            {"opt_adagrad_epsilon", "opt_adagrad_learning_rate_decay"}, {"opt_sparse_name"},
        ),
        (
            {**DCNV2, "optimizer_options": "epsilon=1e-6"}, {},
            {"opt_adagrad_epsilon", "opt_adagrad_initial_accumulator_value"}, {"opt_name"},
        ),
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


@pytest.fixture
def dcnv2_log(tmp_path):
    """The lines of a run of DLRM-DCNv2 that reaches the target after 0.75 epoch."""
    steps = 3 * 75869 // 4
    return play(
        tmp_path / "dcnv2", DCNV2_CONFIG, epoch(0), evaluation(3793, 0.7925),
        evaluation(steps, 0.8029), {"event": "end", "steps": steps}, **DCNV2,
    )  # fmt: skip


@pytest.mark.parametrize("ruleset", ["5.1.0", "6.0.0"])
def test_compliance_checker_accepts_log_of_dcnv2(dcnv2_log, tmp_path, caplog, ruleset):
    passed, messages = check(tmp_path / "dcnv2", caplog, ruleset)
    assert passed, messages
    assert f"training_{ruleset}/closed_dlrm_dcnv2.yaml" in messages
    assert "WARNING" not in messages
    assert dcnv2_log[-1]["metadata"]["status"] == "success"


def test_logged_options_are_those_of_the_optimizers(tmp_path):
    options = "epsilon=1e-6,initial_accumulator=0.1"
    lines = play(
        tmp_path / "log", DCNV2_CONFIG, **DCNV2, optimizer_options=options,
        embedding_optimizer_options=options,
    )  # fmt: skip
    assert values(lines, "opt_adagrad_epsilon") == [1e-6]
    assert values(lines, "opt_adagrad_initial_accumulator_value") == [0.1]
    assert values(lines, "opt_base_learning_rate") == [0.004]


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


_REQUIRED = (
    "global_batch_size", "opt_name", "opt_base_learning_rate", "opt_adagrad_learning_rate_decay",
    "opt_weight_decay", "opt_adagrad_initial_accumulator_value", "opt_adagrad_epsilon",
    "opt_learning_rate_warmup_steps", "opt_learning_rate_decay_start_step",
    "opt_learning_rate_decay_steps", "eval_samples", "train_samples", "run_stop",
)  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        *((without(key), f"occurrence of '{key}' but found 0") for key in _REQUIRED),
        (valued("eval_accuracy", 0.80274), "Failed checks for eval_accuracy"),
        (valued("opt_name", "sgd"), "opt_name"),
        (valued("opt_adagrad_epsilon", 1e-7), "opt_adagrad_epsilon"),
        (valued("opt_learning_rate_warmup_steps", 2750), "opt_learning_rate_warmup_steps"),
        (valued("eval_samples", 89137318), "eval_samples"),
    ],
)
def test_compliance_checker_rejects_broken_log_of_dcnv2(
    dcnv2_log, tmp_path, caplog, edit, complaint
):
    edit(dcnv2_log)
    passed, messages = check(write(tmp_path / "broken.txt", dcnv2_log), caplog, "6.0.0")
    assert not passed
    assert complaint in messages


@pytest.mark.parametrize(("epochs", "passes"), [(0.75, True), (0.6, False)])
def test_convergence_checker_judges_ten_logs_of_dcnv2(dcnv2_log, tmp_path, epochs, passes):
    for run in range(10):
        lines = copy.deepcopy(dcnv2_log)
        for line in lines:
            if line["key"] == "eval_accuracy" and line["value"] > 0.8:
                assert line["metadata"]["epoch_num"] == pytest.approx(0.75, abs=1e-4)
                line["metadata"]["epoch_num"] = epochs
        write(tmp_path / f"result_{run}.txt", lines)
    passed, message, _ = rcp_checker.check_directory(
        str(tmp_path), "training", "6.0.0", False, False, rcp_pass="full_rcps"
    )
    assert (bool(passed), message) == (passes, "RCP found")


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
