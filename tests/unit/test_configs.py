"""Every flagfile in configs/: its header, flags, plans and learning rates."""

import re
import shlex

import pytest

from planner.arguments import read_hotness, read_vocab_sizes
from planner.plan import render
from planner.planned_run import Machines, PlannedRun, Tables
from planner.published_runs import PUBLISHED_RUNS
from planner.workload import ModelShape
from tests.support.paths import ROOT
from training import cli

FILES = sorted(ROOT.glob("configs/*.flags"))
NAMES = sorted(file.stem for file in FILES)

# {step: learning rate} by hand at the published batch sizes: during warm-up, at its end, at the
# start of the decay, half-way (where a quarter of the rate is left), and after the decay.
_EPOCH_65536 = {1160: 12, 2320: 24, 41609: 24, 53325: 6, 65041: 0}
_MLPERF = {1375: 12, 2750: 24, 49315: 24, 63201: 6, 77087: 0, 90000: 0}
_ILUVATAR = {1375: 0.05, 2750: 0.1, 49315: 0.1, 63201: 0.025, 77087: 0, 90000: 0}
_DLE_SMALL = {3200: 14, 6400: 28, 64000: 28, 104000: 7, 144000: 0}
_DLE_LARGE = {4000: 12, 8000: 24, 48000: 24, 60000: 6, 72000: 0}
_TORCHREC = {1: 15, 64013: 15}
_DCNV2 = {1: 0.004, 1000: 0.004, 128027: 0.004}
_DLE_DCNV2 = {50: 5e-5, 100: 1e-4, 48000: 1e-4, 60000: 2.5e-5, 72000: 0}
RATES = {
    "demo": {25: 0.5, 50: 1, 450: 1, 650: 0.25, 850: 0},
    "demo-dcnv2": {25: 0.05, 50: 0.1, 366: 0.1, 549: 0.025, 732: 0},
    "dle-dcnv2": _DLE_DCNV2,
    "dle-dcnv2-amp": _DLE_DCNV2,
    "dle-large": _DLE_LARGE,
    "dle-large-amp": _DLE_LARGE,
    "dle-small": _DLE_SMALL,
    "dle-small-amp": _DLE_SMALL,
    "iluvatar": _ILUVATAR,
    "iluvatar-amp": _ILUVATAR,
    "mlperf-dcnv2-32768": _DCNV2,
    "mlperf-dcnv2-55296": _DCNV2,
    "mlperf-dcnv2-65536": _DCNV2,
    "mlperf-rcp-32768": {4000: 9, 8000: 18, 70000: 18, 85000: 4.5, 100000: 0},
    "mlperf-rcp-55296": _MLPERF,
    "mlperf-rcp-71680": {1250: 13, 2500: 26, 46821: 26, 54524: 6.5, 62227: 0},
    "mlperf-v0.7-nvidia": _MLPERF,
    "sok-amp-auc": _MLPERF,
    "sok-amp-epoch": _EPOCH_65536,
    "sok-fp32-auc": _MLPERF,
    "sok-fp32-epoch": _EPOCH_65536,
    "torchrec-full": _TORCHREC,
    "torchrec-mlperf": _TORCHREC,
    "torchrec-x2": _TORCHREC,
}
# Published batch sizes.
BATCHES = {"sok-amp-auc": 55296, "sok-amp-epoch": 65536, "sok-fp32-auc": 55296,
           "sok-fp32-epoch": 65536, "mlperf-v0.7-nvidia": 55296, "iluvatar": 2048,
           "iluvatar-amp": 2048, "dle-small": 32768, "dle-small-amp": 32768, "dle-large": 65536,
           "dle-large-amp": 65536, "torchrec-mlperf": 65536, "torchrec-x2": 65536,
           "torchrec-full": 65520, "mlperf-rcp-32768": 32768, "mlperf-rcp-55296": 55296,
           "mlperf-rcp-71680": 71680, "demo": 2048, "demo-dcnv2": 2048,
           "mlperf-dcnv2-32768": 32768, "mlperf-dcnv2-55296": 55296, "mlperf-dcnv2-65536": 65536,
           "dle-dcnv2": 65536, "dle-dcnv2-amp": 65536}  # fmt: skip


def config_of(name):
    return cli.parse(["main.py", f"--flagfile={ROOT}/configs/{name}.flags", "--data_dir=x"])


def header(name):
    lines = (ROOT / "configs" / f"{name}.flags").read_text().splitlines()
    return [line for line in lines if line.startswith("#")]


def plans(name):
    """Yields {flag: text} of each `# plan:` line."""
    for line in header(name):
        if line.startswith("# plan: "):
            yield dict(item.lstrip("-").split("=") for item in shlex.split(line[8:]))


def _hotness(machine):
    return read_hotness("hotness", machine["hotness"]) if "hotness" in machine else ()


def test_every_file_has_expected_values():
    assert sorted(RATES) == sorted(BATCHES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_flags_equal_the_published_ones(name):
    config = config_of(name)
    flags, rates = config.flags(), config.training.learning_rates()
    assert flags["global_batch_size"] == BATCHES[name]
    for step, rate in RATES[name].items():
        assert rates(step) == pytest.approx(rate, rel=1e-12, abs=1e-12), step
    assert flags["amp"] == ("amp" in name or name == "mlperf-v0.7-nvidia")
    assert flags["dedup_ids"] == name.startswith("sok-fp32")
    assert (flags["embedding_gradient"] == "sum") == name.startswith("sok")
    if name.endswith("-auc") or name.startswith("mlperf"):
        assert flags["auc_threshold"] == (0.80275 if "dcnv2" in name else 0.8025)
        assert not flags["eval_in_last"]
    assert flags["interaction"] == ("cross" if "dcnv2" in name else "dot")
    if name.startswith("iluvatar"):
        assert (flags["auc_threshold"], flags["epochs"]) == (0.75, 5)
    if name.startswith(("dle", "torchrec")) or name.endswith("-epoch"):
        assert (flags["eval_in_last"], flags["epochs"]) == (True, 1)


@pytest.mark.parametrize("name", sorted(n for n in NAMES if "dcnv2" in n and n != "demo-dcnv2"))
def test_optimizers_of_dcnv2_equal_the_published_ones(name):
    config = config_of(name)
    expected = {"epsilon": 1e-8, "initial_accumulator": 0.0}
    if name.startswith("dle"):
        expected = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}
    training, kind = config.training, "adam" if name.startswith("dle") else "adagrad"
    assert (training.optimizer, training.embedding_optimizer) == (kind, kind)
    assert training.optimizer_values == training.row_optimizer.hyperparameters == expected
    assert (config.model.cross_layers, config.model.cross_rank) == (3, 512)


@pytest.mark.parametrize("name", NAMES)
def test_file_states_the_numbers_of_the_schedule(name):
    flags = config_of(name).flags()
    text = (ROOT / "configs" / f"{name}.flags").read_text()
    for flag in ("global_batch_size", "lr", "warmup_steps", "decay_start_step", "decay_steps"):
        assert len(re.findall(rf"^--{flag}=", text, re.MULTILINE)) == 1, flag
    # The job uses the numbers that are written in the file.
    for line in text.splitlines():
        if line.startswith("--") and "=" in line:
            flag, value = line[2:].split("=", 1)
            used = flags[flag]
            assert used == value if isinstance(used, str) else float(used) == float(value), line


@pytest.mark.parametrize("name", NAMES)
def test_plan_of_every_machine_fits(name):
    config = config_of(name)
    flags = config.flags()
    machines = list(plans(name))
    assert machines
    for machine in machines:
        sizes = read_vocab_sizes(machine["vocab_sizes"])
        run = PlannedRun(
            ModelShape(sizes, flags["embedding_dim"], bottom_mlp=config.model.bottom_widths,
                       top_mlp=config.model.top_widths, interaction=flags["interaction"],
                       cross_layers=flags["cross_layers"], cross_rank=flags["cross_rank"],
                       hotness=_hotness(machine)),
            Machines(int(machine["ranks"]), machine["device"]),
            Tables(flags["embedding_optimizer"], flags["placement"]),
            global_batch_size=flags["global_batch_size"], amp=flags["amp"],
            compress=flags["dedup_ids"],
        )  # fmt: skip
        text = render(run)
        assert f"{machine['ranks']} x {machine['device']}" in text
        assert f"global batch {flags['global_batch_size']:,}" in text
        assert f"{sum(sizes):,} rows of {flags['embedding_dim']}" in text
        placement = text.split("Placement\n")[1].split("\n\n")[0].splitlines()[1:]
        assert len([line for line in placement if line.split()[0].isdigit()]) == int(
            machine["ranks"]
        )


@pytest.mark.parametrize("name", sorted(name for name in NAMES if not name.startswith("demo")))
def test_header_has_source_command_and_published_results(name):
    lines = header(name)
    fields = {line.split()[1] for line in lines if line.startswith("#   ") and line[4] != " "}
    assert {"source", "data", "command"} <= fields
    command = next(line for line in lines if line.startswith("#   command"))
    assert f"--flagfile=configs/{name}.flags" in command
    assert "--data_dir=$DATA" in command
    ranks = next(plans(name))["ranks"]
    assert (f"-np {ranks} ./hvd_wrapper.sh" in command) == (ranks != "1")
    assert any("samples/s" in line and line.startswith("#   ") for line in lines)


def test_published_rates_equal_the_planners():
    rates = {
        (run.ranks, run.global_batch, run.precision, run.rate)
        for run in PUBLISHED_RUNS
        if run.source.startswith(("SOK", "TorchRec"))
    }
    seen = set()
    for name in NAMES:
        if not name.startswith(("sok", "torchrec")):
            continue
        for line in header(name):
            row = re.match(r"#   (\d+) x (\w+) .*?([\d.]+) M samples/s", line)
            if row:
                precision = "fp16" if "amp" in name else "fp32"
                if row[2] == "A100" and "sok-fp32" in name:
                    precision = "tf32"
                matches = {
                    key for key in rates
                    if key[:3] == (int(row[1]), BATCHES[name], precision)
                    and abs(key[3] / 1e6 - float(row[3])) < 1e-3
                }  # fmt: skip
                assert len(matches) == 1, line
                seen |= matches
    assert seen == rates


def test_published_rates_of_dcnv2_equal_the_planners():
    rates = {
        (run.ranks, run.system.split()[2].strip(","), run.global_batch, run.precision): run.rate
        for run in PUBLISHED_RUNS
        if run.interaction == "cross"
    }
    seen = set()
    for name in NAMES:
        for line in header(name) if "dcnv2" in name else ():
            row = re.match(r"#   (\d+) x (\w+) .*?([\d.]+) M samples/s", line)
            if row:
                precision = "tf32" if name == "dle-dcnv2" else "fp16"
                found = int(row[1]), row[2], BATCHES[name], precision
                assert rates[found] / 1e6 == pytest.approx(float(row[3]), abs=1e-3), line
                seen.add(found)
    assert seen == set(rates)
