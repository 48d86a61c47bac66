"""Parsing the command line imports no TensorFlow, so that a wrong flag is reported at once."""

import json
import subprocess
import sys

from tests.support import launch
from tests.support.paths import ROOT
from tests.unit.training.test_flags import WRONG

_SCRIPT = """
import json, sys
from training import config, config_checks
config_checks.complete(config.Config())
loaded = {"tensorflow", "absl", "horovod"} & set(sys.modules)
assert not loaded, loaded
from training import cli
from training.runtime.errors import UserError
errors = 0
for arguments in json.load(sys.stdin):
    try:
        cli.parse(arguments)
    except UserError:
        errors += 1
loaded = {"tensorflow", "horovod"} & set(sys.modules)
assert not loaded, loaded
print(errors)
"""


def test_parsing_imports_no_tensorflow():
    flagfiles = sorted(map(str, ROOT.glob("configs/*.flags")))
    lists = [["main.py", "--data_dir=x", f"--flagfile={path}"] for path in flagfiles]
    lists += [arguments for arguments, _ in WRONG]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], cwd=ROOT, env=launch.environment(),
        input=json.dumps(lists), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(WRONG)
