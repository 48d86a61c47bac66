"""visit.sh with programs that only record their arguments: steps, files, limits, failures."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import tarfile

import numpy as np
import pytest

from benchmarks import gpu_step
from deploy.airgap import demo_losses
from tests.gpu import group, run
from tests.support.paths import ROOT
from training import cli

VISIT = ROOT / "deploy" / "airgap" / "visit.sh"
# Records its arguments; fails or hangs if they contain $FAIL or $HANG.
STUB = """#!/bin/bash
echo "$(basename "$0") $*" >>"$RECORD"
[[ -z ${FAIL:-} || "$*" != *"$FAIL"* ]] || { echo "stub: cannot $FAIL"; exit 3; }
[[ -z ${HANG:-} || "$*" != *"$HANG"* ]] || exec sleep 60
"""
# Writes the log that the option names, then runs the profiled program.
NCU = """
while [[ $1 != python3 ]]; do [[ $1 != --log-file ]] || echo "a,b" >"$2"; shift; done
"$@"
"""
# Stands for the bundle's launcher: writes the journal of a run.
DLRM = """
for word; do
  if [[ $word == --run_dir=* ]]; then
    mkdir -p "${word#*=}/2026"
    echo '{}' >"${word#*=}/2026/journal.jsonl"
  fi
done
if [[ "$*" == *published_runs* ]]; then echo 1,2,3; fi
if [[ "$*" == *split_bin.py* ]]; then mkdir -p "$3" && touch "$3/metadata.json"; fi
if [[ "$*" == *dataset.synthetic* ]]; then mkdir -p "$5"; fi
"""


class Host:
    """A host with a source tree, uploaded files, and programs that record their arguments."""

    def __init__(self, folder):
        self.tree, self.bin, self.out = folder / "tree", folder / "bin", folder / "out"
        self.parts, self.record = folder / "parts", folder / "record"
        (self.tree / "tests" / "gpu").mkdir(parents=True)
        (self.tree / "tests" / "gpu" / "run.py").touch()
        self.bin.mkdir()
        self.program("python3")

    def program(self, name, more=""):
        path = self.bin / name
        path.write_text(STUB + more)
        path.chmod(0o755)

    def upload(self, number, **contents):
        folder = self.tree / "build" / "airgap" / "visit" / f"call-{number}"
        folder.mkdir(parents=True)
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return folder

    def call(self, *arguments, **environment):
        """Makes a call; returns (exit status, {step: status}, lines of recorded commands)."""
        self.record.write_text("")
        status = self.out / "status.txt"
        status.unlink(missing_ok=True)
        done = subprocess.run(
            [VISIT, *map(str, arguments)], cwd=self.tree, capture_output=True, text=True,
            timeout=90, check=False,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "OUT": str(self.out),
                 "RECORD": str(self.record), "DLRM_PARTS": str(self.parts), **environment},
        )  # fmt: skip
        self.printed = done.stdout + done.stderr
        lines = status.read_text().splitlines() if status.exists() else []
        found = [re.fullmatch(r"call \d: (\w+): (.*), \d+ s", line) for line in lines]
        return (
            done.returncode, {match[1]: match[2] for match in found},
            self.record.read_text().splitlines(),
        )  # fmt: skip

    def log(self):
        return (self.out / "log.txt").read_text()


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def gzipped(data):
    return subprocess.run(["gzip", "-c"], input=data, capture_output=True, check=True).stdout


def test_first_call_stores_files_and_uses_the_library(host, rng):
    library, part = rng.bytes(4000), rng.bytes(3000)
    name = "libdlrm_cuda_kernels-sm90-0123.so"
    host.upload(1, **{f"{name}.gz": gzipped(library), "bundle.000": part})
    code, status, commands = host.call(1)
    assert code == 0, host.printed
    assert status == {"store": "passed", "checks": "passed", "step": "passed"}
    assert (host.parts / name).read_bytes() == library
    assert (host.parts / "bundle.000").read_bytes() == part
    assert [words.split()[2] for words in commands] == ["tests.gpu.run", "benchmarks.gpu_step"]
    assert all(f"--library {host.parts / name} " in words for words in commands)
    assert f"--quick --json {host.out}/checks.json" in commands[0]
    assert f"--json {host.out}/step.json" in commands[1]
    assert int(re.search(r"--budget (\d+)", commands[1])[1]) == 70


def test_later_calls_use_the_stored_library_and_newer_ones_replace_it(host, rng):
    host.upload(1, **{"libdlrm_cuda_kernels-sm90-01.so.gz": gzipped(rng.bytes(100))})
    host.call(1)
    host.upload(2, **{"libdlrm_cuda_kernels-sm90-02.so.gz": gzipped(rng.bytes(100))})
    code, _, commands = host.call(2)
    assert code == 0
    assert len(commands) == 2 and all("kernels-sm90-02.so" in words for words in commands)
    groups = "time-machine,time-interaction,time-dense,time-uniform,time-bags,time-criteo"
    assert f"--groups {groups} " in commands[0] and "--only all weights" in commands[0]
    assert "--groups time-machine,check-full,time-full" in commands[1]
    assert all("--only float16" in words for words in commands)
    host.upload(3)
    assert all("kernels-sm90-02.so" in words for words in host.call(3)[2])


def test_missing_files_fail_but_the_measurements_run(host):
    code, status, commands = host.call(1)
    assert code == 1
    assert status == {"store": "failed", "checks": "passed", "step": "passed"}
    assert "build/airgap/visit/call-1, found no folder" in host.printed
    # Builds with the host's nvcc.
    assert len(commands) == 2 and not any("--library" in words for words in commands)


def test_damaged_library_fails(host, rng):
    host.upload(1, **{"libdlrm_cuda_kernels-sm90-01.so.gz": gzipped(rng.bytes(4000))[:-20]})
    code, status, _ = host.call(1)
    assert (code, status["store"]) == (1, "failed")


def test_files_of_another_folder_are_stored(host):
    host.upload(1, **{"bundle.000": b"part"}).rename(host.tree / "other")
    assert host.call(1, "other")[0] == 0
    assert (host.parts / "bundle.000").read_bytes() == b"part"


def test_failure_does_not_stop_later_steps(host):
    host.upload(1)
    code, status, commands = host.call(1, FAIL="tests.gpu.run")
    assert code == 1
    assert status == {"store": "passed", "checks": "failed with status 3", "step": "passed"}
    assert len(commands) == 2
    assert "stub: cannot tests.gpu.run" in host.log() and "stub: cannot" in host.printed


def test_step_is_stopped_at_the_calls_limit(host):
    host.upload(1)
    code, status, commands = host.call(1, HANG="tests.gpu.run", DLRM_SECONDS="6")
    assert code == 1
    assert status["checks"] == "timed out"
    # The first step took all of the time.
    assert status["step"] == "not run (no time left)"
    assert len(commands) == 1
    assert int(re.search(r"--seconds (\d+)", commands[0])[1]) <= 6


def test_fourth_call_repeats_what_failed(host):
    for number in range(1, 5):
        host.upload(number)
    host.program("ncu", NCU)
    assert host.call(1, FAIL="benchmarks.gpu_step")[0] == 1
    assert host.call(2, FAIL="check-full")[0] == 1
    code, status, commands = host.call(4)
    assert code == 0, host.printed
    assert status == {
        "store": "passed", "step_float32": "passed", "step": "passed", "full": "passed"
    }  # fmt: skip
    assert "--precision float32" in commands[0] and "check-full" in commands[2]
    # Nothing is left to repeat.
    assert set(host.call(4)[1]) == {"store", "step_float32"}


def test_measurements_accept_their_arguments(host):
    """The programs of calls 1 to 4, with and without a library and with little time."""
    host.program("ncu", NCU)
    host.program("compute-sanitizer")
    groups, precisions = set(), []
    for number in range(1, 5):
        host.upload(number, **{"libdlrm_cuda_kernels-sm90-01.so.gz": gzipped(b"a library")})
        commands = [words.split(maxsplit=3) for words in host.call(number)[2] if "ncu" not in words]
        for _, _, module, arguments in commands:
            if module == "benchmarks.gpu_step":
                precisions.append(gpu_step.parse(shlex.split(arguments)).precision)
            elif "--only" not in arguments:
                assert run.parse(arguments.split()).quick
            else:
                # The recorded line has no quotes: the texts end at the next flag.
                flags = re.sub(r"--only (.*?)(?= --|$)", lambda m: f"--only '{m[1]}'", arguments)
                groups.update(run.parse(shlex.split(flags)).groups or ())
    assert precisions == ["float16", "float32"]
    assert groups == {*group.TIMINGS, "check full"}


def test_third_call_profiles_each_kernel_and_looks_for_races(host):
    host.upload(3)
    host.program("ncu", NCU)
    host.program("compute-sanitizer")
    code, status, commands = host.call(3)
    assert code == 0, host.printed
    assert status == {"store": "passed", "ncu": "passed", "racecheck": "passed"}
    profiled = [words for words in commands if words.startswith("ncu")]
    kernels = [re.search(r"regex:(\w+)", words)[1] for words in profiled]
    assert kernels == [
        "sgd_kernel", "backward_kernel", "forward_kernel", "lookup_kernel", "update_kernel"
    ]  # fmt: skip
    sources = "".join(path.read_text() for path in ROOT.glob("ops/*/*.cu*"))
    for words, kernel in zip(profiled, kernels):
        assert re.search(rf"\b{kernel}\b", sources)
        assert "--clock-control none" in words and "--target-processes all" in words
        metrics = re.search(r"--metrics (\S+)", words)[1].split(",")
        assert len(set(metrics)) == len(metrics) > 10
        for what in ("dram__bytes", "lts__t_sectors_op_red", "stalled_long_scoreboard"):
            assert any(what in metric for metric in metrics)
    text = (host.out / "ncu.csv").read_text()
    assert text.count("# ") == text.count("a,b") == 5
    assert "--sanitizer racecheck" in commands[-1]


def test_host_without_profilers_skips_their_steps(host):
    host.upload(3)
    code, status, commands = host.call(3)
    assert code == 0
    assert status == {"store": "passed", "ncu": "skipped", "racecheck": "skipped"}
    assert commands == []
    assert "ncu is not in PATH" in host.printed


def test_profiler_that_fails_does_not_hide_other_kernels(host):
    host.upload(3)
    host.program("ncu", NCU)
    code, status, _ = host.call(3, FAIL="regex:sgd_kernel")
    assert (code, status["ncu"]) == (1, "failed with status 1")
    assert (host.out / "ncu.csv").read_text().count("a,b") == 4


@pytest.fixture
def unpacked(host):
    """A host whose bundle is already unpacked."""
    project = host.parts / "bundle" / "project"
    project.mkdir(parents=True)
    launcher = host.parts / "bundle" / "dlrm"
    launcher.write_text(STUB + DLRM)
    launcher.chmod(0o755)
    for number in (5, 6):
        host.upload(number)
    return host


def test_fifth_call_compares_tensorflow_with_a_cpu(unpacked):
    host, project = unpacked, unpacked.parts / "bundle" / "project"
    (host.tree / "main.py").write_text("newer")
    (host.tree / "ops").mkdir()
    (host.tree / "ops" / "of_this_host.so").touch()
    (host.tree / ".cache").touch()
    code, status, commands = host.call(5, CUDA_HOME="/cuda")
    assert code == 0, host.printed
    assert status == {
        "store": "passed", "unpack": "passed", "link": "passed", "gpus": "passed",
        "losses": "passed", "rows": "passed", "cache": "skipped",
    }  # fmt: skip
    ran = [words for words in commands if words.startswith("dlrm")]
    assert "deploy.airgap.host_cuda /cuda/lib64" in ran[0]
    assert any("list_physical_devices" in words for words in commands)
    assert f"compare {host.parts}/demo_losses.json --json {host.out}/losses.json" in ran[-2]
    assert "tests.gpu.read_rows" in ran[-1]
    # The bundle runs the uploaded tree's files with its own libraries.
    copied = {path.relative_to(project) for path in project.rglob("*") if path.is_file()}
    assert copied == {pathlib.Path("main.py"), pathlib.Path("tests/gpu/run.py")}


def test_fifth_call_unpacks_the_stored_parts(host, bundle):
    made = bundle(driver="none")
    host.upload(1, **{made.parts[0][0]: (made.folder / made.parts[0][0]).read_bytes()})
    others = [path for path in made.folder.iterdir() if path.name != made.parts[0][0]]
    host.upload(5, **{path.name: path.read_bytes() for path in others})
    host.call(5)
    assert f"{made.parts[0][0]}: expected" in host.log()
    assert not (host.parts / "bundle").exists()
    assert host.call(1)[0] == 0
    _, status, _ = host.call(5)
    assert status["unpack"] == "passed", host.printed
    assert (host.parts / "bundle" / "project" / "run").exists()


def test_sixth_call_trains_the_full_model_in_each_way(unpacked):
    host = unpacked
    code, status, commands = host.call(6)
    assert code == 0, host.printed
    assert set(status.values()) == {"passed", "skipped"}
    runs = {re.search(r"--run_dir=\S*/(\w+)", words)[1]: words
            for words in commands if words.startswith("dlrm main.py")}  # fmt: skip
    assert list(runs) == [
        "amp", "layers", "stream", "xla", "breakdown", "tf32", "deterministic", "files",
    ]  # fmt: skip
    mlp = {"amp": "fused", "stream": "fused", "layers": "tensorflow"}
    for name, words in runs.items():
        assert "--custom_interact --global_batch_size=65536 --early_stop=200" in words
        assert ("--amp" in words) == (name != "tf32")
        assert ("--deterministic" in words) == (name == "deterministic")
        assert ("--step_breakdown" in words) == (name == "breakdown")
        assert ("--use_synthetic_dataset --vocab_sizes=mlperf" in words) == (name != "files")
        config = cli.parse(words.split()[1:])
        assert (config.training.early_stop, config.speed.amp) == (200, name != "tf32")
        assert config.speed.mlp == mlp.get(name, "auto")
        assert config.speed.xla == (name == "xla")
        assert config.speed.embedding_stream == (name == "stream")
    assert f"--data_dir={host.parts}/data/split" in runs["files"]
    assert any("dataset.synthetic" in words and "--vocab_sizes 1,2,3" in words
               for words in commands)  # fmt: skip
    assert sum("--split_categories" in words for words in commands) == 2
    with tarfile.open(host.out / "journals.tar.gz") as archive:
        assert len(archive.getnames()) == len(runs)
    # The data is not generated again.
    assert not any("dataset.synthetic" in words for words in host.call(6)[2])


def test_failed_run_is_reported_and_its_journal_kept(unpacked):
    code, status, _ = unpacked.call(6, FAIL="--deterministic")
    assert code == 1
    assert status.pop("deterministic") == "failed with status 3"
    assert set(status.values()) == {"passed", "skipped"}


def test_compiler_cache_comes_back_in_pieces_and_is_restored(unpacked, rng, tmp_path):
    host = unpacked
    cache = host.parts / "cuda-cache" / "0" / "kernel"
    cache.parent.mkdir(parents=True)
    data = rng.bytes(16 << 20)  # random: as large when compressed
    cache.write_bytes(data)
    assert host.call(6)[1]["cache"] == "passed"
    pieces = sorted(host.out.glob("cuda-cache.tar.gz.*"))
    assert len(pieces) == 2
    assert max(piece.stat().st_size for piece in pieces) <= 15 << 20
    fresh = Host(tmp_path / "fresh")
    joined = b"".join(piece.read_bytes() for piece in pieces)
    fresh.upload(2, **{"cuda-cache.tar.gz": joined})
    assert fresh.call(2)[0] == 0
    assert (fresh.parts / "cuda-cache" / "0" / "kernel").read_bytes() == data


@pytest.mark.parametrize("arguments", [(), ("0",), ("7",), ("checks",)])
def test_unknown_call_is_rejected(host, arguments):
    code, status, commands = host.call(*arguments)
    assert (code, status, commands) == (2, {}, [])
    assert "1 to 6" in host.printed


def test_other_folder_is_rejected(host, tmp_path):
    host.tree = tmp_path
    assert host.call(1)[0] == 2
    assert str(tmp_path) in host.printed


def test_listed_calls_have_steps_that_exist(host):
    assert host.call("--list")[0] == 0
    lines = [line.split("|") for line in host.printed.splitlines()]
    assert [words[0] for words in lines] == list("123456")
    script = VISIT.read_text()
    named = set(re.findall(r'["\n ](\w+) \d+"', script[script.index("steps_of()") :]))
    defined = set(re.findall(r"^step_(\w+)\(\)", VISIT.with_name("visit_step.sh").read_text(),
                             re.MULTILINE))  # fmt: skip
    assert named == defined


def test_unknown_step_is_rejected(host):
    done = subprocess.run(
        [VISIT.with_name("visit_step.sh"), "sleep"], cwd=host.tree, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "OUT": str(host.out), "DLRM_PARTS": str(host.parts)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "sleep" in done.stderr


def test_losses_are_compared_by_step(tmp_path, rng):
    reference, result = tmp_path / "reference.json", tmp_path / "result.json"
    expected = list(rng.uniform(0.5, 1.0, demo_losses.STEPS))
    reference.write_text(json.dumps({"losses": expected}))
    done = subprocess.run(
        ["python3", "-m", "deploy.airgap.demo_losses", "compare", reference, "--device", "cpu",
         "--json", result], cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    found = json.loads(result.read_text())
    losses = np.asarray(found["losses"])
    assert 0.4 < losses[-1] < losses[0] < 1.2
    assert found["gpu"] is None and 0.4 < found["log_loss"] < 0.7
    np.testing.assert_allclose(found["differences"], np.abs(losses / expected - 1), rtol=1e-9)
    assert found["largest"] == max(found["differences"])


@pytest.mark.slow
def test_tolerance_separates_rounding_from_wrong_updates(monkeypatch):
    """bfloat16 rounds more coarsely than any precision of a GPU."""
    expected = demo_losses.train("cpu")["losses"]

    def largest(flag):
        monkeypatch.setattr(demo_losses, "FLAGS", (*flags, flag))
        return max(demo_losses.differences(expected, demo_losses.train("cpu")["losses"]))

    flags = demo_losses.FLAGS
    assert largest("--amp") < demo_losses.TOLERANCE
    assert largest("--embedding_lr=32") > 5 * demo_losses.TOLERANCE
