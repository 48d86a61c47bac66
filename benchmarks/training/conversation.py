"""How a program of the benchmark is told what to do: JSON lines over a local socket.

The program's side. Standard library alone, since programs live in several environments.
"""

import json
import os
import socket
import time
import traceback


def serve(address, handlers, **facts):
    """Connects, says who is there, then does what it is told until the other side hangs up.

    Args:
        address: path of the benchmark's socket.
        handlers: {name: function}: a line {"do": name, ...} calls it with the line's other
            entries, and the dictionary that it returns is the answer.
        **facts: told with the greeting, beside this process's number: versions, what was chosen.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        lines = connection.makefile("rw", encoding="utf-8")
        _say(lines, {"pid": os.getpid(), **facts})
        for line in lines:
            asked = json.loads(line)
            handler = handlers[asked.pop("do")]
            try:
                answer = handler(**asked)
            except Exception:
                answer = {"error": traceback.format_exc()}
            _say(lines, answer)


def _say(lines, answer):
    lines.write(json.dumps(answer) + "\n")
    lines.flush()


def burst(step, wait, steps, warm_up=1):
    """Runs some steps untimed, then `steps` timed ones; returns {"seconds", "steps"}.

    Args:
        step: function that starts a step, or does it.
        wait: function that returns when the last step is done.
        steps: how many to time.
        warm_up: how many before those, so that caches and threads are this program's again.
    """
    for _ in range(warm_up):
        step()
    wait()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return {"seconds": time.perf_counter() - begin, "steps": steps}
