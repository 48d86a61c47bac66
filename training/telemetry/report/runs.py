"""Combines the journals of a run and its resumed continuations into one `Run`."""

from __future__ import annotations

import bisect
import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from training.runtime.errors import UserError
from training.telemetry.report.journals import read_journal, read_result

# (folder, events, whether the last line was truncated).
_Part = tuple[pathlib.Path, list[dict[str, Any]], bool]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, or several that resumed from each other's checkpoints.

    Attributes:
        name: short and unique on the page.
        folders: the folders that it was read from, in order.
        config: the last "config" event.
        result: the content of the last folder's result.json; None if the run did not end.
        events: {kind: list of events}. Events with a step also have `samples` (trained so far) and
            `clock` (seconds of run time so far, without the pauses before resumes).
        redone: "step" events that a crash lost and a later start repeated; not in `events`.
        resumes: [(clock, step)] at which the run was resumed.
        cut: folders whose journal ends in a truncated line.
    """

    name: str
    folders: tuple[str, ...]
    config: dict[str, Any]
    result: dict[str, Any] | None
    events: dict[str, list[dict[str, Any]]]
    redone: tuple[dict[str, Any], ...]
    resumes: tuple[tuple[float, int], ...]
    cut: tuple[str, ...]

    @property
    def flags(self) -> dict[str, Any]:
        """The flags of the last start."""
        return self.config["flags"]

    @property
    def batch(self) -> int:
        """The global batch in samples."""
        return self.flags["global_batch_size"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Returns the events of one kind, in order."""
        return self.events.get(kind, [])

    def last_step(self) -> int:
        """Returns the last step in the journal."""
        steps = [e["step"] for kind in ("step", "evaluation") for e in self.of(kind)]
        return max(steps, default=self.config.get("resumed_from_step") or 0)

    def samples_per_second(self) -> float | None:
        """Returns the mean rate from the result, else from the step events; None without steps."""
        if self.result is not None and self.result.get("samples_per_second"):
            return self.result["samples_per_second"]
        timed = [e for e in self.of("step") if e["covers_seconds"] > 0]
        seconds = sum(e["covers_seconds"] for e in timed)
        return sum(e["covers_steps"] for e in timed) * self.batch / seconds if seconds else None

    def machine(self) -> str | None:
        """Returns "CPU" or "GPU"; None if the journal has no memory event."""
        memory = self.of("memory")
        if not memory:
            return None
        return "CPU" if memory[-1]["peak_gpu_bytes"] is None else "GPU"


def read_runs(folders: Sequence[str | os.PathLike]) -> list[Run]:
    """Reads run folders; joins each to the earlier argument from whose checkpoints it resumed.

    Args:
        folders: paths; those of a resumed job in order of their creation.

    Raises:
        UserError: a folder is not a run, its journal is damaged, or a folder is given twice.
    """
    groups: list[list[_Part]] = []
    seen: set[pathlib.Path] = set()
    for folder in folders:
        path = pathlib.Path(folder)
        events, cut = read_journal(path)
        if path.resolve() in seen:
            raise UserError.of_path(folder, "given twice")
        seen.add(path.resolve())
        part = (path, events, cut)
        before = next((g for g in reversed(groups) if _resumes(part, g[-1])), None)
        if before is None:
            groups.append([part])
        else:
            before.append(part)
    names = _names([[path for path, _, _ in group] for group in groups])
    return [_run(name, group) for name, group in zip(names, groups)]


def _config(events: list[dict[str, Any]], index: int) -> dict[str, Any]:
    return [e for e in events if e["event"] == "config"][index]


def _resumes(part: _Part, earlier: _Part) -> bool:
    config, before = _config(part[1], 0), _config(earlier[1], -1)
    place = config["flags"].get("checkpoint_dir")
    return bool(
        config.get("resumed_from_step")
        and place is not None
        and place == before["flags"].get("checkpoint_dir")
        and config["data"] == before["data"]
    )


def _names(groups: list[list[pathlib.Path]]) -> list[str]:
    """Returns a name for each group: the first folder's name, with parents until all differ."""
    names = []
    for depth in range(1, 20):
        names = ["/".join(group[0].resolve().parts[-depth:]) for group in groups]
        if len(set(names)) == len(names):
            break
    return [
        name if len(group) == 1 else f"{name} + {len(group) - 1} resumed"
        for name, group in zip(names, groups)
    ]


def _segments(group: list[_Part]) -> list[list[dict[str, Any]]]:
    """Returns the events of each start; messages may precede its config event."""
    segments = []
    for _, events, _ in group:
        segment = []
        for event in events:
            if event["event"] == "config" and any(e["event"] == "config" for e in segment):
                segments.append(segment)
                segment = []
            segment.append(event)
        segments.append(segment)
    return segments


def _run(name: str, group: list[_Part]) -> Run:
    segments = _segments(group)
    kinds, redone, resumes = collections.defaultdict(list), [], []
    offset = 0.0
    for number, segment in enumerate(segments):
        config = next(e for e in segment if e["event"] == "config")
        start = config.get("resumed_from_step") or 0
        if number:
            resumes.append((offset, start))
            for kind in ("step", "evaluation", "memory"):
                kept = [e for e in kinds[kind] if e["step"] <= start]
                if kind == "step":
                    redone += [e for e in kinds[kind] if e["step"] > start]
                kinds[kind] = kept
        batch = config["flags"]["global_batch_size"]
        clock = _Clock(offset, start, batch)
        for event in segment:
            event = clock.place(dict(event))
            if "step" in event:
                event["test_samples"] = event.get("samples")
                event["samples"] = event["step"] * batch
            kinds[event["event"]].append(event)
        offset = clock.latest
    result = read_result(group[-1][0])
    if result is None and segments[-1][-1]["event"] == "end":
        result = segments[-1][-1]
    return Run(
        name=name,
        folders=tuple(str(path) for path, _, _ in group),
        config=kinds["config"][-1],
        result=result,
        events=dict(kinds),
        redone=tuple(redone),
        resumes=tuple(resumes),
        cut=tuple(str(path) for path, _, cut in group if cut),
    )


class _Clock:
    """Computes the run time at each event of one start.

    An evaluation or checkpoint is placed at the time of its step, interpolated from "step" events:
    its own time is that of its completion, which older journals lack.
    """

    def __init__(self, offset: float, start: int, batch: int):
        self._offset = offset
        self._batch = batch
        # The start and each "step" event: its step; its clock and seconds per step.
        self._steps = [start]
        self._clocks = [(offset, 0.0)]
        self.latest = offset

    def place(self, event: dict[str, Any]) -> dict[str, Any]:
        """Sets `clock`; in a "step" event also `covers_steps` and `covers_seconds`."""
        kind = event["event"]
        if kind in ("evaluation", "checkpoint"):
            before = max(0, bisect.bisect_right(self._steps, event["step"]) - 1)
            clock, per_step = self._clocks[before]
            event["clock"] = clock + max(0, event["step"] - self._steps[before]) * per_step
            end = event["clock"] + (event["seconds"] if kind == "evaluation" else 0.0)
            self.latest = max(self.latest, end)
        elif "time" in event:
            event["clock"] = self._offset + event["time"]
            self.latest = max(self.latest, event["clock"])
        if kind == "step":
            rate = event["samples_per_second"]
            per_step = self._batch / rate if rate > 0 else 0.0
            event["covers_steps"] = max(1, event["step"] - self._steps[-1])
            event["covers_seconds"] = event["covers_steps"] * per_step
            self._steps.append(event["step"])
            self._clocks.append((event["clock"], per_step))
        return event
