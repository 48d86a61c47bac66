"""`python3 -m training.report` as a command."""

import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.training.telemetry.report.journals import make_events, write_run


def test_report_command_does_not_import_tensorflow(tmp_path, rng):
    run = write_run(tmp_path / "run", make_events(rng)[:2])
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('training.report', run_name='__main__')\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert (run / "report.html").is_file()
