"""The failed rank in the standard error of each launcher."""

import pytest

from training.runtime.launcher_report import first_failure

HOROVODRUN = """[0]<stderr>:error: rank 1 (process 15566 on vm) died during step 354
Traceback (most recent call last):
RuntimeError: Horovod detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:
Process name: 1
Exit code: {code}
"""
OPEN_MPI = "mpirun noticed that process rank 3 with PID 0 on node n02 exited on signal 9 (Killed)."
PRRTE = """prterun noticed that process rank 11 with PID 25121 on node n02 exited on
signal 11 (Segmentation fault).
"""
HYDRA = """=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 2 PID 4711 RUNNING AT n01
=   KILLED BY SIGNAL: 9 (Killed)
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 5 PID 4714 RUNNING AT n01
=   KILLED BY SIGNAL: 15 (Terminated)
"""
SRUN = """srun: error: n03: task 6: Killed
srun: launch/slurm: _step_signal: Terminating StepId=42.0
srun: error: n03: task 7: Exited with exit code 4
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOROVODRUN.format(code=137), "rank 1 was killed by SIGKILL"),
        (HOROVODRUN.format(code=4), "rank 1 ended with exit code 4"),
        (HOROVODRUN.format(code=255), "rank 1 ended with exit code 255"),
        (OPEN_MPI, "rank 3 was killed by SIGKILL"),
        (PRRTE, "rank 11 was killed by SIGSEGV"),
        (HYDRA, "rank 2 was killed by SIGKILL"),
        (SRUN, "rank 6 was killed by SIGKILL"),
        ("srun: error: n3: task 0: Exited with exit code 1\n", "rank 0 ended with exit code 1"),
    ],
)
def test_first_failure_names_rank_and_signal(text, expected):
    assert str(first_failure(text)) == expected


@pytest.mark.parametrize("text", ["", "error: the loss is nan at step 20\n", "Process name: x\n"])
def test_first_failure_is_none_without_a_report(text):
    assert first_failure(text) is None
