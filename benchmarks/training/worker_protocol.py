"""The measured programs' side of the protocol: JSON lines over a local socket.

Imports only the standard library, because programs run in several environments.
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO


def serve(
    address: str, handlers: Mapping[str, Callable[..., dict[str, Any]]], **facts: Any
) -> None:
    """Connects, sends the facts, then answers requests until the other side closes.

    Args:
        address: path of the benchmark's socket.
        handlers: {name: function}: a line {"do": name, ...} calls it with the line's other
            entries, and the dictionary that it returns is the answer.
        **facts: sent at the start together with this process' id: versions, settings.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        lines = connection.makefile("rw", encoding="utf-8")
        _send(lines, {"pid": os.getpid(), **facts})
        for line in lines:
            request = json.loads(line)
            handler = handlers[request.pop("do")]
            try:
                answer = handler(**request)
            except Exception:
                answer = {"error": traceback.format_exc()}
            _send(lines, answer)


def _send(lines: TextIO, answer: dict[str, Any]) -> None:
    lines.write(json.dumps(answer) + "\n")
    lines.flush()


def burst(step: Callable[[], Any], wait: Callable[[], Any], steps: int) -> dict[str, Any]:
    """Runs one untimed step, then `steps` timed steps; returns {"seconds", "steps"}.

    Args:
        step: function that starts or runs a step.
        wait: function that waits for the last step.
        steps: number of timed steps.
    """
    step()
    wait()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return {"seconds": time.perf_counter() - begin, "steps": steps}
