"""A fake of ``tests.gpu.group``: the name of an entry says what it does."""

import argparse
import json
import os
import signal
import sys
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--group")
    parser.add_argument("--report")
    parser.add_argument("--skip", type=int)
    parser.add_argument("--entries", nargs="*")
    parser.add_argument("--code", type=int, default=0)
    options, others = parser.parse_known_args()
    entries = options.entries or [f"{options.group}: {' '.join(others)}"]
    with open(options.report, "a", encoding="utf-8") as report:

        def write(line):
            report.write(json.dumps(line) + "\n")
            report.flush()

        write({"names": entries})
        for name in entries[options.skip :]:
            write({"begin": name})
            if "crash" in name:
                os.kill(os.getpid(), signal.SIGKILL)
            if "hang" in name:
                time.sleep(1000)
            if "partial" in name:
                report.write('{"result": {"na')
                report.flush()
                os._exit(1)
            result = {"name": name, "passed": "bad" not in name, "cases": 1, "worst": 0.5}
            write({"result": result})
            if "broken" in name:
                return 3
    return options.code


if __name__ == "__main__":
    sys.exit(main())
