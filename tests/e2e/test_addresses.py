"""Shell scripts and the bundle builder refuse addresses such as gs://bucket/data as paths."""

import subprocess

import pytest

from deploy.airgap import build
from tests.support.paths import ROOT

ADDRESS = "gs://bucket/data"


def test_bundle_builder_refuses_address(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        build.main([f"--work={ADDRESS}"])
    assert ended.value.code == 2
    assert "--work" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["launchers/docker.sh"],
        ["deploy/airgap/dry_run.sh", "BUNDLE", ADDRESS],
        ["deploy/airgap/unpack.sh", ADDRESS],
    ],
)
def test_script_refuses_address(tmp_path, command):
    (tmp_path / "MANIFEST").write_text("parts 0\n")
    script = tmp_path / "script.sh"
    script.write_bytes((ROOT / command[0]).read_bytes())
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
    assert ADDRESS in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MANIFEST", "script.sh"]
