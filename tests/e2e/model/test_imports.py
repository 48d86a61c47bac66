"""Modules that the planner and the flags import must stay light."""

import subprocess
import sys

from tests.support.paths import ROOT

CODE = """
import sys
from model.embedding.placement import plan
from model.embedding.placement_file import placement_text, read_placement
from planner.plan import main
read_placement(placement_text(plan((9, 4), 2, 2)))
main(["--ranks=8"])
print("imported:", *({"tensorflow", "keras", "numpy", "horovod", "absl"} & {*sys.modules}))
"""


def test_plan_and_placement_import_no_tensorflow_and_no_numpy():
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["imported:"]
