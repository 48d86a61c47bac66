"""Programs whose standard streams are closed, full, broken or unread."""

import os
import subprocess
import sys
import time

import pytest

from storage.standard_streams import EXIT_BROKEN_PIPE
from tests.support.paths import ROOT

_BEGIN = """
import sys
from storage import program_start, standard_streams
program_start.begin()
"""


def is_warning(text, reason):
    """Returns whether `text` is the one line that warns about standard output."""
    return text.startswith("warning: ") and text.count("\n") == 1 and reason in text


def program(tmp_path, body):
    path = tmp_path / "program.py"
    path.write_text(_BEGIN + body)
    return [sys.executable, str(path)]


def run(command, redirection="", **options):
    """Runs a command in a shell, which can close descriptors."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command], cwd=ROOT, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_protect_reserves_the_numbers_of_closed_streams(tmp_path, closed):
    data = tmp_path / "data"
    body = f"""
with open({str(data)!r}, "w") as file:
    print("out")
    print("err", file=sys.stderr)
    import os
    os.system("echo from a child; echo from a child >&2")
    file.write("data")
    sys.exit(0 if file.fileno() > 2 else 9)
"""
    done = run(program(tmp_path, body), closed, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert data.read_text() == "data"


@pytest.mark.parametrize("lines", [1, 20000])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_tool_ends_when_its_output_fails(tmp_path, lines, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = program(tmp_path, f"for i in range({lines}): print(i)")
    writing = broken_pipe()
    done = run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (EXIT_BROKEN_PIPE, "")
    done = run(command, ">/dev/full", stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_failing_standard_error_keeps_the_exit_code(tmp_path, redirection):
    body = "print('reason', file=sys.stderr)\nprint('out')\nsys.exit(7)"
    done = run(program(tmp_path, body), redirection, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (7, "out\n")


@pytest.mark.parametrize(
    ("redirection", "unbuffered", "reason"),
    [
        (">/dev/full", "", "No space left on device"),
        (">/dev/full", "1", "No space left on device"),
        (">/dev/full 2>/dev/full", "", None),
        (">&- 2>&- <&-", "1", None),
    ],
)
def test_job_continues_without_its_output(tmp_path, redirection, unbuffered, reason, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    journal = tmp_path / "journal"
    body = f"""
standard_streams.keep_going()
for step in range(3000):
    print(step, flush=step % 7 == 0)
open({str(journal)!r}, "w").write("done")
sys.exit(130)
"""
    done = run(program(tmp_path, body), redirection, stderr=subprocess.PIPE)
    assert done.returncode == 130
    assert is_warning(done.stderr, reason) if reason else done.stderr == ""
    assert journal.read_text() == "done"


def test_job_continues_when_its_reader_exits(tmp_path):
    body = "standard_streams.keep_going()\nfor i in range(9999): print(i)\nsys.exit(3)"
    writing = broken_pipe()
    done = run(program(tmp_path, body), stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 3
    assert is_warning(done.stderr, "Broken pipe")


@pytest.mark.parametrize("blocking", [True, False])
def test_job_drops_text_when_its_reader_stops_reading(tmp_path, blocking):
    body = f"""
import time
standard_streams.keep_going(timeout=0.3)
for i in range(50_000): print(i, flush=True)
print("x", end="", file=open({str(tmp_path / "full")!r}, "w"))
while sys.stdin.read(1) != "": pass
print("the end", flush=True)
"""
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    process = subprocess.Popen(
        program(tmp_path, body), cwd=ROOT, stdin=subprocess.PIPE, stdout=writing,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(writing)
    deadline = time.monotonic() + 60
    while not (tmp_path / "full").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first = os.read(reading, 1 << 20)
    process.stdin.close()  # from here on the pipe is writable
    rest = b""
    while piece := os.read(reading, 1 << 20):
        rest += piece
    os.close(reading)
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert is_warning(error, "standard output")
    assert first.startswith(b"0\n1\n2\n") and b"49999" not in first + rest
    assert rest.endswith(b"the end\n")


def test_tool_waits_for_its_reader(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = subprocess.Popen(
        program(tmp_path, "for i in range(50_000): print(i)"), cwd=ROOT, stdout=writing,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(writing)
    with open(reading) as output:
        time.sleep(0.3)
        assert output.read() == "".join(f"{i}\n" for i in range(50_000))
    assert process.wait(60) == 0
