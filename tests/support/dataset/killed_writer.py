"""Runs tools, each in a forked process that is killed before a certain call.

    python3 -m tests.support.dataset.killed_writer JSON

JSON is a list of [function, N, module, arguments]: module.main(arguments) is killed before call N,
counted from 0, of os.function. Prints the list of exit codes, -9 for a killed process.
"""

import importlib
import json
import os
import signal
import sys


def run(function, number, module, arguments):
    original, calls = getattr(os, function), iter(range(1 << 30))

    def killing(*given, **named):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    setattr(os, function, killing)
    return module.main(arguments)


def main():
    statuses = []
    for function, number, name, arguments in json.loads(sys.argv[1]):
        module = importlib.import_module(name)
        process = os.fork()
        if not process:
            os._exit(run(function, number, module, arguments))
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
