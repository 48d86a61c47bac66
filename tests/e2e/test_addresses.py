"""Addresses such as gs://bucket/data are refused by every flag that is a path."""

import subprocess

import pytest

import preprocess
import split_bin
from dataset import convert, synthetic, validate
from deploy.airgap import build
from tests.support import launch
from training import cli
from training.checkpoint import __main__ as checkpoint
from training.runtime.errors import UserError
from training.telemetry.report import __main__ as report

ADDRESS = "gs://bucket/data"
# (tool, its arguments, what the message calls the address)
TOOLS = [
    (split_bin, [ADDRESS, "out"], "SRC"),
    (split_bin, ["in.bin", ADDRESS], "DST"),
    (convert, [ADDRESS, "out", "--layout=raw"], "SRC"),
    (convert, ["in", ADDRESS, "--layout=raw"], "DST"),
    (validate, [ADDRESS], "DIR"),
    (synthetic, [f"--output={ADDRESS}", "--train_samples=1", "--test_samples=1"], "--output"),
    (preprocess, [f"--input={ADDRESS}", "--output=out"], "--input"),
    (preprocess, ["--input=in", f"--output={ADDRESS}"], "--output"),
    (preprocess, ["--input=in", "--output=out", f"--dictionary={ADDRESS}"], "--dictionary"),
    (preprocess, ["--input=in", "--output=out", f"--work_dir={ADDRESS}"], "--work_dir"),
    (report, [ADDRESS], "RUN"),
    (report, ["run", f"--output={ADDRESS}"], "--output"),
    (report, ["run", f"--png={ADDRESS}"], "--png"),
    (checkpoint, ["inspect", ADDRESS], "DIR"),
    (checkpoint, ["verify", ADDRESS], "DIR"),
    (checkpoint, ["export", "in", ADDRESS], "OUT"),
    (build, [f"--work={ADDRESS}"], "--work"),
]


@pytest.mark.parametrize(("tool", "arguments", "name"), TOOLS)
def test_tools_refuse_addresses(tmp_path, monkeypatch, capsys, tool, arguments, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        tool.main(arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {name}: only local paths are supported: expected a path, found" in message
    assert "gs://; mount the gs:// storage as a folder, or copy it to a local disk" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", [ADDRESS, "s3://b", "hdfs://host:9000/d", "file:///data"])
@pytest.mark.parametrize(
    "name",
    [
        "data_dir", "checkpoint_dir", "restore", "export_dir", "run_dir", "mlperf_log", "placement",
        "vocab_sizes", "flagfile",
    ],
)  # fmt: skip
def test_main_refuses_addresses(tmp_path, monkeypatch, name, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        cli.parse(["main.py", "--global_batch_size=8", f"--{name}={address}"])
    assert str(raised.value).startswith(f"--{name}={address}: only local paths are supported")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["launchers/docker.sh"],
        ["deploy/airgap/dry_run.sh", "BUNDLE", ADDRESS],
        ["deploy/airgap/unpack.sh", ADDRESS],
    ],
)
def test_scripts_refuse_addresses(tmp_path, command):
    (tmp_path / "MANIFEST").write_text("parts 0\n")
    script = tmp_path / "script.sh"
    script.write_bytes((launch.ROOT / command[0]).read_bytes())
    arguments = [str(tmp_path) if word == "BUNDLE" else word for word in command[1:]]
    done = subprocess.run(
        ["bash", str(script), *arguments],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "DATA": str(tmp_path), "RUNS": ADDRESS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert f"only local paths are supported, found {ADDRESS}" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MANIFEST", "script.sh"]
