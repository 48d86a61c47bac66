"""The steps of a bundle's build: order, resuming, repeating, and checks of the work folder."""

import pytest

from deploy.airgap import BundleError, build


@pytest.fixture
def steps(monkeypatch):
    """Replaces all steps; returns the list of names of those that run."""
    ran = []

    def recording(name):
        def step(self):
            """Records its name."""
            ran.append(name)

        return step

    for name in build.STEPS:
        monkeypatch.setattr(build.Build, name, recording(name))
    return ran


def test_build_resumes_after_last_completed_step(tmp_path, steps, monkeypatch, capsys):
    work = ["--work", str(tmp_path)]
    assert build.main([*work, "--until", "ops"]) == 0
    assert steps == ["interpreter", "packages", "horovod", "project", "ops"]

    def broken(self):
        """Fails."""
        raise BundleError("no space")

    steps.clear()
    with monkeypatch.context() as patched:
        patched.setattr(build.Build, "cuda", broken)
        assert build.main(work) == 1
    assert steps == ["strip"]
    assert "cuda: no space" in capsys.readouterr().err
    steps.clear()
    assert build.main(work) == 0
    assert steps == ["cuda", "prune", "finish", "check", "pack"]


def test_redo_and_fresh_repeat_steps(tmp_path, steps):
    work = ["--work", str(tmp_path)]
    assert build.main(work) == build.main(work) == 0
    assert steps == list(build.STEPS)
    steps.clear()
    assert build.main([*work, "--redo", "pack", "ops"]) == 0
    assert steps == ["ops", "pack"]
    steps.clear()
    assert build.main([*work, "--fresh"]) == 0
    assert steps == list(build.STEPS)


@pytest.mark.parametrize(
    ("option", "value"), [("--part_mib", "0"), ("--level", "23"), ("--architectures", "9")]
)
def test_invalid_number_is_rejected_before_first_step(tmp_path, steps, capsys, option, value):
    with pytest.raises(SystemExit) as ended:
        build.main(["--work", str(tmp_path), option, value])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert option in message and value in message
    assert steps == []


@pytest.mark.parametrize("name", ["tree", "bundle", "marks", "notes.txt"])
def test_foreign_work_folder_is_rejected(tmp_path, steps, capsys, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "keep.txt").write_text("notes")
    assert build.main(["--work", str(tmp_path)]) == 2
    assert f"--work: {tmp_path}: " in capsys.readouterr().err
    assert steps == []
    assert [path.name for path in tmp_path.rglob("*")] == [name, "keep.txt"]
