"""Results of a visit: summaries of journals, and comparison of losses."""

import json
import math

import pytest

from deploy.airgap import BundleError, demo_losses, visit_report


def write_journal(folder, events):
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def events_of(rng, end=True):
    rate, loss = float(rng.uniform(1e6, 2e7)), float(rng.uniform(0.1, 0.9))
    phases = [{"name": "lookup", "milliseconds": float(rng.uniform(0, 1))}]
    events = [
        {"event": "config", "versions": {"gpu": "a GPU"}},
        {"event": "step", "step": 8, "loss": 2.0, "samples_per_second": 3.0},
        {"event": "breakdown", "phases": phases, "whole_milliseconds": 4.0},
        {"event": "memory", "peak_gpu_bytes": 90 << 30},
        {"event": "step", "step": 9, "loss": loss, "samples_per_second": 5.0},
        {"event": "end", "steps": 9, "loss": loss, "samples_per_second": rate, "auc": None},
    ]
    return events if end else events[:-1]


def test_report_has_the_numbers_of_each_run(tmp_path, rng, capsys):
    whole, broken = events_of(rng), events_of(rng, end=False)
    write_journal(tmp_path / "amp" / "20260101-000000", whole)
    (tmp_path / "amp" / "latest").symlink_to("20260101-000000")
    write_journal(tmp_path / "tf32" / "20260101-000001", broken)
    assert visit_report.main([str(tmp_path), "--json", str(tmp_path / "runs.json")]) == 0
    found = json.loads((tmp_path / "runs.json").read_text())
    end = whole[-1]
    assert found["amp"] == {
        "completed": True, "gpu": "a GPU", "peak_gpu_bytes": 90 << 30, "whole_milliseconds": 4.0,
        "phases": {"lookup": whole[2]["phases"][0]["milliseconds"]}, "auc": None, "steps": 9,
        "loss": end["loss"], "samples_per_second": end["samples_per_second"],
    }  # fmt: skip
    assert not found["tf32"]["completed"]
    assert found["tf32"]["samples_per_second"] == 5.0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert f"{end['samples_per_second'] / 1e6:.3f} M samples/s" in lines[0]
    assert "90.00 GiB" in lines[0] and "NOT completed" in lines[1]


def test_report_without_runs_fails(tmp_path, capsys):
    assert visit_report.main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


@pytest.fixture
def trained(monkeypatch, rng):
    """The result of the replaced training; tests change it."""
    result = {"gpu": "a GPU", "losses": list(rng.uniform(0.4, 0.9, demo_losses.STEPS))}
    monkeypatch.setattr(demo_losses, "train", lambda device: result)
    return result


def compare(tmp_path, losses, *more):
    path = tmp_path / "losses.json"
    path.write_text(json.dumps({"losses": losses}))
    return demo_losses.main(["compare", str(path), "--json", str(tmp_path / "out.json"), *more])


@pytest.mark.parametrize(("factor", "code"), [(0.9, 0), (1.1, 1), (-1.1, 1), (math.nan, 1)])
def test_losses_beyond_the_tolerance_fail(tmp_path, trained, rng, factor, code):
    expected = list(trained["losses"])
    step = int(rng.integers(demo_losses.STEPS))
    trained["losses"][step] *= 1 + factor * demo_losses.TOLERANCE
    assert compare(tmp_path, expected) == code
    found = json.loads((tmp_path / "out.json").read_text())["differences"]
    assert all(value == 0 for index, value in enumerate(found) if index != step)
    assert math.isnan(factor) or found[step] == pytest.approx(
        abs(factor) * demo_losses.TOLERANCE, rel=1e-6
    )


def test_run_on_a_cpu_is_no_comparison_with_a_gpu(tmp_path, trained, capsys):
    trained["gpu"] = None
    assert compare(tmp_path, trained["losses"]) == 1
    assert "GPU" in capsys.readouterr().err
    assert compare(tmp_path, trained["losses"], "--device", "cpu") == 0


def test_wrong_reference_is_named(tmp_path, trained, capsys):
    assert compare(tmp_path, trained["losses"][1:]) == 1
    assert f"expected the losses of {demo_losses.STEPS - 1} steps" in capsys.readouterr().err
    missing = tmp_path / "missing.json"
    assert demo_losses.main(["compare", str(missing)]) == 1
    assert str(missing) in capsys.readouterr().err


def test_different_numbers_of_steps_are_reported():
    with pytest.raises(BundleError) as raised:
        demo_losses.differences([1.0, 2.0], [1.0])
    assert (raised.value.expected, raised.value.found) == (2, 1)
