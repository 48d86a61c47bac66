"""What goes into a bundle, as far as it needs a compiler or runs programs."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from deploy.airgap import BundleError, cuda, elf, interpreter, packages, project

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
    """Returns the result of a library's function as text, or the name of the error.

    In a new process: a loaded library stays loaded, and the loader confuses it with a new file
    that has got the inode number of a removed one.
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
def test_placeholder_loads_and_has_no_functions(tmp_path):
    path = tmp_path / "lib" / "libnothing.so.7"
    cuda.placeholder(path)
    assert re.search(r"SONAME +libnothing\.so\.7", elf.headers([path])[path])
    assert elf.needed(elf.headers([path])[path]) == []
    assert called(path, "anything") == "AttributeError"


@needs_compiler
def test_headers_have_needed_libraries_and_versions(tmp_path):
    source = "#include <stdlib.h>\nvoid *f(void) { return malloc(1); }\n"
    plain = library(tmp_path / "libplain.so", source)
    user = library(
        tmp_path / "libuser.so", "extern void *f(void); void *g(void) { return f(); }\n",
        f"-L{tmp_path}", "-lplain",
    )  # fmt: skip
    headers = elf.headers([plain, user])
    assert elf.needed(headers[user])[0] == "libplain.so"
    assert "libc.so.6" in elf.needed(headers[plain])
    assert elf.versions(headers[plain], "GLIBC")
    assert elf.highest_version(headers, "GLIBCXX") == ("0", None)
    version, path = elf.highest_version(headers, "GLIBC")
    host = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    assert path in headers
    assert (2, 0) < tuple(map(int, version.split("."))) <= tuple(map(int, host.split(".")))


@needs_compiler
def test_visible_cuda_runtime_is_rejected(tmp_path):
    hidden = '__attribute__((visibility("hidden"))) '
    runtime = "int cudaMalloc(void) {{ return 0; }} int f(void) {{ return cudaMalloc(); }}\n"
    closed = library(tmp_path / "libhidden.so", hidden + runtime.format())
    project.check_cuda_runtime_is_hidden(closed)
    exported = library(tmp_path / "libexported.so", runtime.format())
    with pytest.raises(BundleError) as caught:
        project.check_cuda_runtime_is_hidden(exported)
    assert (caught.value.path, caught.value.found) == (str(exported), ["cudaMalloc"])
    imported = library(
        tmp_path / "libimported.so", "int cudaFree(void); int f(void) { return cudaFree(); }\n"
    )
    with pytest.raises(BundleError) as caught:
        project.check_cuda_runtime_is_hidden(imported)
    assert caught.value.found == ["cudaFree"]


@needs_compiler
@pytest.mark.parametrize("mappable", [True, False])
def test_strip_keeps_symbols_if_result_cannot_be_mapped(tmp_path, monkeypatch, mappable):
    path = library(tmp_path / "liba.so", "static int hidden(void) { return 1; }\n"
                   "int f(void) { return hidden(); }\n", "-O0", "-g")  # fmt: skip
    before = path.read_bytes()
    monkeypatch.setattr(elf, "mappable", lambda header: mappable)
    packages._strip_symbols(path)
    assert [p.name for p in tmp_path.iterdir()] == ["liba.so"]
    assert (path.read_bytes() == before) == (not mappable)
    assert called(path, "f") == "1"


def test_relocated_scripts_run_python_of_their_folder(tmp_path):
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


def test_launcher_sets_environment(tmp_path):
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

    lines, variables = run()
    assert variables["XLA_FLAGS"] == f"--xla_gpu_cuda_data_dir={nvcc}"
    assert "LD_LIBRARY_PATH" not in variables
    lines, variables = run(PYTHONPATH="/elsewhere", XLA_FLAGS="--users", LD_LIBRARY_PATH="/host")
    assert lines[0] == str(root / "project")
    *first, last = variables["LD_LIBRARY_PATH"].split(":")
    assert sorted(first) == [f"{nvcc.parent}/cublas/lib", f"{nvcc.parent}/cudnn/lib"]
    assert last == "/host"
    assert variables["PATH"].split(":")[0] == str(root / "python" / "bin")
    assert variables["XLA_FLAGS"] == f"--xla_gpu_cuda_data_dir={nvcc} --users"
    assert "PYTHONPATH" not in variables
    assert lines[-1] == "<main.py><--a b>"
