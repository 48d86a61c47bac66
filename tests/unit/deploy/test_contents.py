"""What goes into a bundle: CUDA libraries, links to a host's, and ELF requirements."""

import re
import stat
import zipfile

import pytest

from deploy.airgap import BundleError, cuda, elf, host_cuda, packages, project
from deploy.requirements import ROOT, lock_path, supported


@pytest.fixture(autouse=True)
def empty_placeholders(monkeypatch):
    """Creates empty files instead of compiling placeholders."""

    def create(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr(cuda, "placeholder", create)


def test_highest_version_compares_numbers():
    def header(*symbols):
        lines = "\n".join(f"    0x0 0x00 02 {symbol}" for symbol in symbols)
        return f"x: file format\nVersion definitions:\n1 GLIBC_9.9\nVersion References:\n{lines}\n"

    headers = {
        "old": header("GLIBC_2.9", "GLIBCXX_3.4.30"),
        "new": header("GLIBC_2.17", "GLIBC_2.4"),
    }
    assert elf.highest_version(headers, "GLIBC") == ("2.17", "new")
    assert elf.highest_version(headers, "GLIBCXX") == ("3.4.30", "old")


def test_files_finds_only_elf_files(tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    (tmp_path / "short").write_bytes(b"\x7fE")
    (tmp_path / "elf").write_bytes(b"\x7fELF and more")
    (tmp_path / "link").symlink_to("elf")
    assert elf.files(tmp_path) == [tmp_path / "elf"]


def test_mappable_detects_misaligned_segments():
    line = "    LOAD off    0x{:016x} vaddr 0x{:016x} paddr 0x{:016x} align 2**12\n"
    good = line.format(0x1000, 0x401000, 0x401000) + line.format(0x2ABC, 0x5ABC, 0x5ABC)
    assert elf.mappable(good)
    assert not elf.mappable(good + line.format(0x2040, 0x9ABC, 0x9ABC))


def test_required_driver_follows_cuda_version(tmp_path):
    file = tmp_path / "CMakeFiles" / "3.31.6" / "CMakeCUDACompiler.cmake"
    file.parent.mkdir(parents=True)
    for release, driver in (("12.2.140", "525.60.13"), ("13.0.88", "580.65.06")):
        file.write_text(f'set(X "1")\nset(CMAKE_CUDA_COMPILER_VERSION "{release}")\n')
        assert project.required_driver(tmp_path) == driver
    file.write_text('set(CMAKE_CUDA_COMPILER_VERSION "99.1")\n')
    with pytest.raises(BundleError) as caught:
        project.required_driver(tmp_path)
    assert (caught.value.found, caught.value.expected) == ("99", ["11", "12", "13"])
    file.unlink()
    with pytest.raises(BundleError) as caught:
        project.required_driver(tmp_path)
    assert (caught.value.path, caught.value.found) == (str(tmp_path), None)


def test_pins_are_nvidia_packages_of_lock():
    lock = "numpy==2.4.6\nnvidia-cublas-cu12==12.9.3.13 ; python_full_version < '3.14'\n"
    assert cuda.pins_of(lock) == {"nvidia-cublas-cu12": "nvidia-cublas-cu12==12.9.3.13"}


@pytest.mark.parametrize("minor", cuda.RELEASES)
def test_locks_pin_all_cuda_packages(minor):
    version = next(v for v in supported() if v.startswith(f"{minor}."))
    assert set(cuda.packages(version, "complete")) <= set(
        cuda.pins_of(lock_path(version).read_text())
    )


def test_unknown_release_is_rejected():
    with pytest.raises(BundleError) as caught:
        cuda.packages("2.99.1")
    assert (caught.value.found, caught.value.expected) == ("2.99.1", ["2.15", "2.21"])


def wheel(path, names):
    """Writes a wheel with files of these names and a licence."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*names, "x-1.dist-info/License.txt"]:
            archive.writestr(name, f"this is {name}")
    return path


@pytest.mark.parametrize("minor", cuda.RELEASES)
def test_bundle_has_called_libraries_and_placeholders(tmp_path, minor):
    version, release = f"{minor}.0", cuda.RELEASES[minor]
    wheels = {
        name: wheel(tmp_path / f"{name}.whl", [*files, "nvidia/other/lib/libother.so.1"])
        for name, files in release.called.items()
    }
    placed = cuda.install(version, wheels, tmp_path / "site")
    wanted = {name for names in release.called.values() for name in names}
    empty = {name for name, _ in release.placeholders.values()}
    assert set(placed) == wanted | empty
    for name in wanted:
        assert (tmp_path / "site" / name).read_text() == f"this is {name}"
    assert not (tmp_path / "site" / "nvidia" / "other").exists()
    assert (tmp_path / "site" / "x-1.dist-info" / "License.txt").exists()
    ptxas = tmp_path / "site" / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    assert stat.S_IMODE(ptxas.stat().st_mode) == 0o755


def test_wheel_without_library_is_rejected(tmp_path):
    made = wheel(tmp_path / "a.whl", ["nvidia/cublas/lib/libcublas.so.12"])
    with pytest.raises(BundleError) as caught:
        cuda.install("2.21.0", {"nvidia-cublas-cu12": made}, tmp_path / "site")
    assert caught.value.path == str(made)
    assert caught.value.expected == "nvidia/cublas/lib/libcublasLt.so.12"


@pytest.mark.parametrize("minor", cuda.RELEASES)
def test_lean_bundle_has_only_cuda_runtime(tmp_path, minor):
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


def test_host_libraries_are_linked_by_names_that_tensorflow_loads(tmp_path):
    later = host_libraries(tmp_path / "13", "libcublas.so.13", "libcublasLt.so.13")
    networks = host_libraries(
        tmp_path / "dnn", "libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn.so.8"
    )
    nvidia = tmp_path / "site" / "nvidia"
    for _ in range(2):  # The second call replaces the links.
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
    # CUDA 12's library is preferred to CUDA 13's.
    exact = host_libraries(tmp_path / "12", "libcublas.so.12", "libcublasLt.so.12")
    host_cuda.link([later, networks, exact], tmp_path / "site")
    assert (nvidia / "cublas/lib/libcublas.so.12").read_text() == "the host's libcublas.so.12"


def test_missing_host_library_is_named(tmp_path):
    later = host_libraries(tmp_path / "13", "libcublas.so.13", "libcublasLt.so.13")
    with pytest.raises(BundleError) as caught:
        host_cuda.link([later], tmp_path / "site")
    assert caught.value.expected == ("libcudnn.so.9",)
    assert str(later) in str(caught.value)


def test_groups_exist_and_extra_packages_are_pinned():
    text = (ROOT / "pyproject.toml").read_text()
    named = {*packages.RUN_TIME, *packages.NO_DEPS, "airgap"}.union(*packages.GROUPS.values())
    for group in named:
        assert re.search(rf"^{group} = \[", text, re.MULTILINE), group
    for version in supported():
        lock = lock_path(version).read_text()
        for name in packages.EXTRA_PACKAGES:
            assert re.search(rf"^{name}==", lock, re.MULTILINE), (version, name)
