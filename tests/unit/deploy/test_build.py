"""The order of a build, and going on with one that was broken off."""

import pytest

from deploy.airgap import build


@pytest.fixture
def steps(monkeypatch):
    """Puts stand-ins in the place of all steps; returns the names of those that were taken."""
    taken = []

    def stand_in(name):
        def step(self):
            """Notes its name."""
            taken.append(name)

        return step

    for name in build.STEPS:
        monkeypatch.setattr(build.Build, name, stand_in(name))
    return taken


def test_goes_on_after_the_last_step(tmp_path, steps, monkeypatch, capsys):
    work = ["--work", str(tmp_path)]
    assert build.main([*work, "--until", "ops"]) == 0
    assert steps == ["interpreter", "packages", "horovod", "project", "ops"]

    def broken(self):
        """Fails."""
        raise RuntimeError("no room")

    steps.clear()
    with monkeypatch.context() as patched:
        patched.setattr(build.Build, "cuda", broken)
        assert build.main(work) == 1
    assert steps == ["strip"]
    assert "cuda: no room" in capsys.readouterr().err
    steps.clear()
    assert build.main(work) == 0
    assert steps == ["cuda", "prune", "finish", "check", "pack"]


def test_steps_are_taken_again_when_asked_for(tmp_path, steps):
    work = ["--work", str(tmp_path)]
    assert build.main(work) == 0
    steps.clear()
    assert build.main(work) == 0
    assert steps == []
    assert build.main([*work, "--redo", "pack", "ops"]) == 0
    assert steps == ["ops", "pack"]
    steps.clear()
    assert build.main([*work, "--fresh"]) == 0
    assert steps == list(build.STEPS)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--part_mib", "0"], "--part_mib: expected a whole number from 1 to"),
        (["--level", "23"], "--level: expected a whole number from 1 to 22"),
    ],
)
def test_a_wrong_number_is_said_before_any_step(tmp_path, steps, capsys, wrong, told):
    with pytest.raises(SystemExit) as ended:
        build.main(["--work", str(tmp_path), *wrong])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert steps == []


@pytest.mark.parametrize("name", ["tree", "bundle", "marks", "notes.txt"])
def test_a_folder_of_somebody_elses_is_not_built_in(tmp_path, steps, capsys, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "keep.txt").write_text("theirs")
    assert build.main(["--work", str(tmp_path)]) == 2
    assert f"{tmp_path}: holds files that this program did not write" in capsys.readouterr().err
    assert steps == []
    assert [path.name for path in tmp_path.rglob("*")] == [name, "keep.txt"]
