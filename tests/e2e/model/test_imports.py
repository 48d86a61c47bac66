"""Modules that the planner and the flags import must stay light."""

import subprocess
import sys

from tests.support.paths import ROOT

CODE = """
import sys
from planner.plan import main
path = sys.argv[1]
with open(path, "w") as file:
    file.write('{"tables": [{"table": 0, "kind": "row"}, {"table": 1, "kind": "row"}]}')
main(["--ranks=8", "--vocab_sizes=9,4", f"--placement={path}"])
print("imported:", *({"tensorflow", "keras", "numpy", "horovod", "absl"} & {*sys.modules}))
"""


def test_plan_and_placement_import_no_tensorflow_and_no_numpy(tmp_path):
    words = [sys.executable, "-c", CODE, tmp_path / "placement.json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["imported:"]
