"""The command line of `tests.gpu.run`, its libraries and its tables."""

import itertools
import json
import shutil
import subprocess
import sys
import types

import pytest

from tests.gpu import build, group, launchers, memory, processes, run, table


def stages(*arguments):
    return run.stages(run.parse(arguments))


def test_default_run_has_every_group_once_with_large_tables_alone():
    found = stages()
    assert found[0] == ["check interaction", "check embedding", "check dense"]
    assert all(len(names) == 1 for names in found[1:])
    assert sorted(itertools.chain(*found)) == sorted([*group.CHECKS, *group.TIMINGS])
    assert stages("--quick") == found[:1]
    assert stages("--sanitizer", "racecheck") == [[name] for name in found[0]]


def test_groups_selects_checks_and_timings_in_the_usual_order():
    assert stages("--groups", "time-full,time-machine,check-full") == [
        ["time machine"], ["time full"], ["check full"],
    ]  # fmt: skip
    assert list(itertools.chain(*stages("--groups", "timings"))) == list(group.TIMINGS)
    assert list(itertools.chain(*stages("--groups", "checks"))) == list(group.CHECKS)
    assert stages("--groups", "check-embedding,time-full", "--quick") == [
        ["check embedding"], ["time full"],
    ]  # fmt: skip
    assert stages("--groups", "check-embedding", "--sanitizer", "memcheck") == [["check embedding"]]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--groups", "time-full,time full"], ["'time full'", *run.GROUPS, *run.SETS]),
        (["--groups", ""], ["unknown group ''"]),
        (["--groups", "time-full", "--quick"], ["--quick", "check-interaction"]),
        (["--groups", "checks", "--sanitizer", "memcheck"], ["--sanitizer", "check large"]),
        (["--seconds", "0"], ["--seconds", "found 0"]),
    ],
)
def test_parse_rejects_contradicting_options(arguments, found, capsys):
    with pytest.raises(SystemExit):
        run.parse(arguments)
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(word in message for word in found), message


@pytest.fixture
def gpu_host(monkeypatch):
    """Makes `tests.gpu.run` see a GPU, whose groups are fakes that report their arguments."""
    cuda = types.SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "a GPU")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(processes, "MODULE", "tests.support.ops.fake_gpu_group")
    monkeypatch.setattr(run, "device_state", dict)
    monkeypatch.setattr(run.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(build, "nvcc", lambda: None)


@pytest.fixture
def compiled(tmp_path):
    """Returns a function that compiles C++ code to a library and returns its path."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")

    def compile_(code):
        source, target = tmp_path / "code.cc", tmp_path / "library.so"
        source.write_text(code)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
        return target

    return compile_


def functions(sources, without=()):
    """Returns the code of a library's functions, which only have the right names."""
    names = [name for name in launchers.SYMBOLS if name not in without]
    code = "".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in names)
    return code + f'extern "C" const char* dlrm_sources() {{ return "{sources}"; }}\n'


def test_run_with_a_library_needs_no_nvcc_and_passes_its_options_on(
    gpu_host, compiled, tmp_path, monkeypatch
):
    library, report = compiled(functions(build.sources_digest())), tmp_path / "gpu.json"
    monkeypatch.chdir(library.parent)
    code = run.main(
        ["--library", library.name, "--groups", "check-full,time-criteo", "--json", str(report),
         "--only", "SGD atomics", "--only=-lookup", "--seed", "7"]
    )  # fmt: skip
    assert code == 0
    written = json.loads(report.read_text())
    assert written["finished"] and written["library"] == str(library)
    (check,), (timing,) = written["checks"], written["timings"]
    assert check["name"].startswith("check full: ")
    assert timing["name"].startswith("time criteo: ")
    for entry in (check, timing):
        assert f"--shared_object {library} --share 0 1 --seed 7 " in entry["name"]
        assert "--only=SGD atomics --only=-lookup" in entry["name"]
        assert "--quick" not in entry["name"]


def test_run_reports_a_missing_nvcc_in_one_line(gpu_host, monkeypatch):
    with pytest.raises(SystemExit, match=r"^tests.gpu.run: nvcc not found .*--library[^\n]*$"):
        run.main([])


@pytest.mark.parametrize("problem", ["missing", "text", "launcher", "sources", "old"])
def test_run_rejects_an_unusable_library_in_one_line(problem, gpu_host, compiled, tmp_path):
    library, words = tmp_path / "none.so", ["no such file"]
    if problem == "text":
        library = tmp_path / "text.so"
        library.write_text(1000 * "not a library")
        words = ["cannot load", "invalid ELF header"]
    if problem == "launcher":
        lacking = ("dlrm_embedding_update", "dlrm_row_optimizer")
        library, words = compiled(functions(build.sources_digest(), lacking)), [", ".join(lacking)]
    if problem == "sources":
        library, words = compiled(functions("0123")), ["0123", build.sources_digest()]
    if problem == "old":
        code = functions("").rsplit("extern", 1)[0]
        library, words = compiled(code), ["does not record", build.sources_digest()]
    with pytest.raises(SystemExit) as caught:
        run.main(["--library", str(library), "--groups", "check-full"])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in [library.name, *words]), message


def timing(name, microseconds, **more):
    seconds = microseconds / 1e6
    return {
        "name": name, "passed": True, "bytes": 10**6, "seconds": seconds, "launch": {},
        "seconds_low": seconds, "seconds_high": seconds, "waited": False, **more,
    }  # fmt: skip


def test_table_shows_share_of_copy_and_sorted_against_atomic(capsys):
    shares = {"hottest_row_shares": [0.01, 0.02, 0.43]}
    copy = {"name": "copy bandwidth", "passed": True, "copy_bytes_per_s": 4e11, "by_size": {}}
    table.print_timings({"timings": [
        copy,
        timing("lookup float16, uniform ids", 5, **shares),
        timing("SGD atomics float16, skewed ids", 10, **shares),
        timing("SGD deterministic float16, skewed ids", 35, **shares),
        timing("SGD deterministic float16, one row", 80, **shares),
        {"name": "SGD atomics float16, one row", "passed": False, "error": "broken"},
    ]})  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    (lookup,) = [line for line in lines if line.startswith("lookup")]
    assert lookup.split()[4:6] == ["1", "5.0"] and "50.0%" in lookup
    (failed,) = [line for line in lines if "FAILED" in line]
    assert "one row" in failed and "broken" in failed
    compared = lines[next(k for k, line in enumerate(lines) if "sorted/atomics" in line) + 1 :]
    assert [line.split() for line in compared] == [
        ["float16,", "skewed", "ids", "10.0", "35.0", "3.50", "2.00%,", "43.00%"]
    ]


def test_require_free_names_expected_and_found_memory(monkeypatch):
    cuda = types.SimpleNamespace(
        empty_cache=lambda: None, mem_get_info=lambda: (40 * 10**9, 80 * 10**9)
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    device = memory.TorchMemory("cpu")
    device.require_free(39e9)
    with pytest.raises(MemoryError, match=r"expected 96.1 GB .* found 40.0 GB"):
        device.require_free(96.1e9)
