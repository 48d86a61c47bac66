"""What goes into a bundle, and what it needs of a host."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest

from deploy.airgap import cuda, elf, host_cuda, interpreter, packages, project
from deploy.requirements import ROOT, lock_path, supported

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("objdump") is None, reason="no compiler, no objdump"
)


def library(path, source, *options):
    """Compiles a shared library."""
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), *options],
        input=source, text=True, check=True,
    )  # fmt: skip
    return path


def called(path, function):
    """Returns what a library's function gives, in words, or the name of the error.

    In a process of its own: a library that this one opens stays open, and the loader takes a file
    with its inode's number for it, on file systems that give the number of a removed file again.
    """
    program = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "try:\n    print(getattr(library, sys.argv[2])())\n"
        "except AttributeError as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), function], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.strip()


@needs_compiler
def test_a_placeholder_opens_and_holds_nothing(tmp_path):
    path = tmp_path / "lib" / "libnothing.so.7"
    cuda.placeholder(path)
    assert re.search(r"SONAME +libnothing\.so\.7", elf.headers([path])[path])
    assert elf.needed(elf.headers([path])[path]) == []
    assert called(path, "anything") == "AttributeError"


@needs_compiler
def test_reads_what_a_library_needs(tmp_path):
    source = "#include <stdlib.h>\nvoid *f(void) { return malloc(1); }\n"
    plain = library(tmp_path / "libplain.so", source)
    user = library(
        tmp_path / "libuser.so", "extern void *f(void); void *g(void) { return f(); }\n",
        f"-L{tmp_path}", "-lplain",
    )  # fmt: skip
    told = elf.headers([plain, user])
    assert elf.needed(told[user])[0] == "libplain.so"
    assert "libc.so.6" in elf.needed(told[plain])
    assert elf.versions(told[plain], "GLIBC"), "malloc has a version"
    assert elf.highest(told, "GLIBCXX") == ("0", None)
    version, holder = elf.highest(told, "GLIBC")
    host = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    assert holder in told
    assert (2, 0) < tuple(map(int, version.split("."))) <= tuple(map(int, host.split(".")))


def test_versions_are_ordered_as_numbers():
    def header(*symbols):
        lines = "\n".join(f"    0x0 0x00 02 {symbol}" for symbol in symbols)
        return f"x: file format\nVersion definitions:\n1 GLIBC_9.9\nVersion References:\n{lines}\n"

    told = {"old": header("GLIBC_2.9", "GLIBCXX_3.4.30"), "new": header("GLIBC_2.17", "GLIBC_2.4")}
    assert elf.highest(told, "GLIBC") == ("2.17", "new")
    assert elf.highest(told, "GLIBCXX") == ("3.4.30", "old")


def test_only_elf_files_are_taken_for_such(tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    (tmp_path / "short").write_bytes(b"\x7fE")
    (tmp_path / "elf").write_bytes(b"\x7fELF and more")
    (tmp_path / "link").symlink_to("elf")
    assert elf.files(tmp_path) == [tmp_path / "elf"]


@needs_compiler
def test_a_library_that_lends_its_cuda_runtime_is_refused(tmp_path):
    """TensorFlow exports the same names: the loader would take its functions for ours."""
    hidden = '__attribute__((visibility("hidden"))) '
    runtime = "int cudaMalloc(void) {{ return 0; }} int f(void) {{ return cudaMalloc(); }}\n"
    closed = library(tmp_path / "libclosed.so", hidden + runtime.format())
    project.check_cuda_is_its_own(closed)
    lent = library(tmp_path / "liblent.so", runtime.format())
    with pytest.raises(RuntimeError, match=r"liblent\.so .* cudaMalloc"):
        project.check_cuda_is_its_own(lent)
    taken = library(
        tmp_path / "libtaken.so", "int cudaFree(void); int f(void) { return cudaFree(); }\n"
    )
    with pytest.raises(RuntimeError, match="cudaFree"):
        project.check_cuda_is_its_own(taken)


def test_the_driver_follows_from_the_compiler(tmp_path):
    note = tmp_path / "CMakeFiles" / "3.31.6" / "CMakeCUDACompiler.cmake"
    note.parent.mkdir(parents=True)
    for release, driver in (("12.2.140", "525.60.13"), ("13.0.88", "580.65.06")):
        note.write_text(f'set(X "1")\nset(CMAKE_CUDA_COMPILER_VERSION "{release}")\n')
        assert project.driver_needed(tmp_path) == driver
    note.write_text('set(CMAKE_CUDA_COMPILER_VERSION "99.1")\n')
    with pytest.raises(RuntimeError, match="names CUDA 99, expected one of 11, 12, 13"):
        project.driver_needed(tmp_path)
    note.unlink()
    with pytest.raises(RuntimeError, match="names CUDA None"):
        project.driver_needed(tmp_path)


def test_pins_are_the_locks_nvidia_packages():
    lock = "numpy==2.4.6\nnvidia-cublas-cu12==12.9.3.13 ; python_full_version < '3.14'\n"
    assert cuda.pins_of(lock) == {"nvidia-cublas-cu12": "nvidia-cublas-cu12==12.9.3.13"}


@pytest.mark.parametrize("minor", cuda.RELEASES)
def test_locks_pin_every_cuda_package_of_a_bundle(minor):
    version = next(v for v in supported() if v.startswith(f"{minor}."))
    assert set(cuda.packages(version, "complete")) <= set(
        cuda.pins_of(lock_path(version).read_text())
    )


def test_release_without_a_table_is_refused():
    with pytest.raises(RuntimeError, match=r"TensorFlow 2\.99\.1 .*: expected 2\.15 or 2\.21"):
        cuda.packages("2.99.1")


def wheel(path, names):
    """Writes a wheel that holds files of these names and its licence."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*names, "x-1.dist-info/License.txt"]:
            archive.writestr(name, f"this is {name}")
    return path


@needs_compiler
@pytest.mark.parametrize("minor", cuda.RELEASES)
def test_only_the_libraries_that_are_called_are_taken(tmp_path, minor):
    version, release = f"{minor}.0", cuda.RELEASES[minor]
    wheels = {
        name: wheel(tmp_path / f"{name}.whl", [*files, "nvidia/other/lib/libother.so.1"])
        for name, files in release.carried.items()
    }
    placed = cuda.install(version, wheels, tmp_path / "site")
    wanted = {name for names in release.carried.values() for name in names}
    empty = {name for name, _ in release.placeholders.values()}
    assert set(placed) == wanted | empty
    for name in wanted:
        assert (tmp_path / "site" / name).read_text() == f"this is {name}"
    assert not (tmp_path / "site" / "nvidia" / "other").exists()
    assert (tmp_path / "site" / "x-1.dist-info" / "License.txt").exists()
    ptxas = tmp_path / "site" / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    assert stat.S_IMODE(ptxas.stat().st_mode) == 0o755


def test_a_wheel_without_its_library_is_refused(tmp_path):
    made = wheel(tmp_path / "a.whl", ["nvidia/cublas/lib/libcublas.so.12"])
    with pytest.raises(RuntimeError, match=r"does not hold nvidia/cublas/lib/libcublasLt\.so\.12"):
        cuda.install("2.21.0", {"nvidia-cublas-cu12": made}, tmp_path / "site")


@needs_compiler
@pytest.mark.parametrize("minor", cuda.RELEASES)
def test_a_lean_bundle_takes_the_runtime_alone(tmp_path, minor):
    version = f"{minor}.0"
    assert cuda.packages(version, "lean") == ["nvidia-cuda-runtime-cu12"]
    runtime = "nvidia/cuda_runtime/lib/libcudart.so.12"
    wheels = {"nvidia-cuda-runtime-cu12": wheel(tmp_path / "runtime.whl", [runtime])}
    placed = cuda.install(version, wheels, tmp_path / "site", "lean")
    empty = {name for name, _ in cuda.RELEASES[minor].placeholders.values()}
    assert set(placed) == {runtime, *empty}


def host_libraries(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"the host's {name}")
    return folder


def test_a_host_lends_its_cuda_libraries_under_the_names_that_tensorflow_opens(tmp_path):
    later = host_libraries(tmp_path / "13", "libcublas.so.13", "libcublasLt.so.13")
    networks = host_libraries(
        tmp_path / "dnn", "libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn.so.8"
    )
    nvidia = tmp_path / "site" / "nvidia"
    for _ in range(2):  # again: links are made anew
        found = host_cuda.link([tmp_path / "none", later, networks], tmp_path / "site")
    assert found["cuBLAS"] == later / "libcublas.so.13"
    read = {path.name: path.read_text() for path in nvidia.glob("*/lib/*")}
    assert read == {
        "libcublas.so.12": "the host's libcublas.so.13",
        "libcublas.so.13": "the host's libcublas.so.13",
        "libcublasLt.so.12": "the host's libcublasLt.so.13",
        "libcublasLt.so.13": "the host's libcublasLt.so.13",
        "libcudnn.so.9": "the host's libcudnn.so.9",
        "libcudnn_graph.so.9": "the host's libcudnn_graph.so.9",
    }
    # CUDA 12's own is better than CUDA 13's under its name.
    exact = host_libraries(tmp_path / "12", "libcublas.so.12", "libcublasLt.so.12")
    host_cuda.link([later, networks, exact], tmp_path / "site")
    assert (nvidia / "cublas/lib/libcublas.so.12").read_text() == "the host's libcublas.so.12"


def test_a_library_that_a_host_lacks_is_named(tmp_path):
    later = host_libraries(tmp_path / "13", "libcublas.so.13", "libcublasLt.so.13")
    with pytest.raises(RuntimeError, match=r"^cuDNN: expected libcudnn\.so\.9 in one of: .*13$"):
        host_cuda.link([later], tmp_path / "site")


def test_scripts_run_the_python_beside_them(tmp_path):
    folder = tmp_path / "some where" / "bin"
    folder.mkdir(parents=True)
    tool = folder / "tool"
    tool.write_text("#!/nowhere/bin/python3\nimport sys\nprint(sys.argv[1:])\n")
    tool.chmod(0o755)
    shell = folder / "shell"
    shell.write_text("#!/bin/sh\necho shell\n")
    interpreter.relocate_scripts(folder)
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python3").chmod(0o755)
    moved = folder.rename(tmp_path / "moved")
    ran = subprocess.run([moved / "tool", "a b"], capture_output=True, text=True, check=True)
    assert ran.stdout == "['a b']\n"
    assert (moved / "shell").read_text() == "#!/bin/sh\necho shell\n"


def test_groups_exist_and_single_packages_are_pinned():
    project = (ROOT / "pyproject.toml").read_text()
    named = {*packages.RUN_TIME, *packages.ALONE, "airgap"}.union(*packages.GROUPS.values())
    for group in named:
        assert re.search(rf"^{group} = \[", project, re.MULTILINE), group
    for version in supported():
        lock = lock_path(version).read_text()
        for name in packages.ALSO:
            assert re.search(rf"^{name}==", lock, re.MULTILINE), (version, name)


def test_the_launcher_sets_the_environment(tmp_path):
    source = pathlib.Path(interpreter.__file__).parent
    root = tmp_path / "bundle"
    (root / "project").mkdir(parents=True)
    nvcc = root / "python" / "lib" / "python3.11" / "site-packages" / "nvidia" / "cuda_nvcc"
    nvcc.mkdir(parents=True)
    for name in ("cublas", "cudnn"):
        (nvcc.parent / name / "lib").mkdir(parents=True)
    python = root / "python" / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\npwd\nenv\nprintf "<%s>" "$@"\n')
    python.chmod(0o755)
    for name in ("dlrm", "activate"):
        shutil.copy2(source / name, root / name)

    def run(**given):
        ran = subprocess.run(
            [root / "dlrm", "main.py", "--a b"], capture_output=True, text=True, check=True,
            env={"PATH": "/usr/bin:/bin", **given},
        )  # fmt: skip
        lines = ran.stdout.splitlines()
        return lines, dict(line.partition("=")[::2] for line in lines[1:-1])

    lines, told = run()
    assert told["XLA_FLAGS"] == f"--xla_gpu_cuda_data_dir={nvcc}"
    assert "LD_LIBRARY_PATH" not in told
    lines, told = run(PYTHONPATH="/elsewhere", XLA_FLAGS="--mine", LD_LIBRARY_PATH="/host")
    assert lines[0] == str(root / "project")
    *first, last = told["LD_LIBRARY_PATH"].split(":")
    assert sorted(first) == [f"{nvcc.parent}/cublas/lib", f"{nvcc.parent}/cudnn/lib"]
    assert last == "/host"
    assert told["PATH"].split(":")[0] == str(root / "python" / "bin")
    assert told["XLA_FLAGS"] == f"--xla_gpu_cuda_data_dir={nvcc} --mine"
    assert "PYTHONPATH" not in told
    assert lines[-1] == "<main.py><--a b>"


def test_segments_that_cannot_be_mapped_are_seen():
    line = "    LOAD off    0x{:016x} vaddr 0x{:016x} paddr 0x{:016x} align 2**12\n"
    good = line.format(0x1000, 0x401000, 0x401000) + line.format(0x2ABC, 0x5ABC, 0x5ABC)
    assert elf.mappable(good)
    assert not elf.mappable(good + line.format(0x2040, 0x9ABC, 0x9ABC))


@needs_compiler
@pytest.mark.parametrize("mappable", [True, False])
def test_a_library_that_would_not_load_keeps_its_symbols(tmp_path, monkeypatch, mappable):
    path = library(tmp_path / "liba.so", "static int hidden(void) { return 1; }\n"
                   "int f(void) { return hidden(); }\n", "-O0", "-g")  # fmt: skip
    before = path.read_bytes()
    monkeypatch.setattr(elf, "mappable", lambda header: mappable)
    packages._strip_symbols(path)
    assert [p.name for p in tmp_path.iterdir()] == ["liba.so"]
    assert (path.read_bytes() == before) == (not mappable)
    assert called(path, "f") == "1"
