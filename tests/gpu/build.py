"""Builds the CUDA kernels as a plain shared library: with nvcc for a GPU, or emulated on the CPU.

A library's name contains a hash of its sources, flags and compiler, so that an unchanged tree is
not rebuilt. If several processes request the same library, one builds it and the others wait.
"""

import concurrent.futures
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

from tests.gpu import launchers

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
HOST = ROOT / "tests" / "gpu" / "host"
RECORD = ROOT / "tests" / "gpu" / "launch_record.cu"
CACHE = ROOT / "build" / "cuda"


class BuildError(RuntimeError):
    """A compiler failed or timed out; the message contains its output."""


def sources():
    """Returns the CUDA source files of the ops."""
    return sorted(OPS.glob("*/*.cu"))


def nvcc():
    """Returns the path of nvcc, or None; looks in CUDA_HOME, PATH and /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME")
    places = [f"{home}/bin"] * bool(home) + [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def supported_architectures():
    """Returns the architectures that nvcc supports, as strings, in ascending order."""
    listed = _run([nvcc(), "--list-gpu-arch"], 60)
    return sorted(re.findall(r"compute_(\d+)$", listed, re.MULTILINE), key=int)


def generations():
    """Returns the default architectures of the op library that nvcc supports, as strings.

    They are listed in `ops/cuda_architectures.cmake`. Without nvcc returns [].
    """
    if nvcc() is None:
        return []
    text = (OPS / "cuda_architectures.cmake").read_text()
    named = re.search(r"set\(DLRM_CUDA_GENERATIONS ([\d ]+)\)", text)[1].split()
    supported = supported_architectures()
    return [architecture for architecture in named if architecture in supported]


def architecture_for(capability):
    """Returns the architecture to compile for: the GPU's, or the newest earlier one.

    Args:
        capability: (major, minor) of the GPU.

    Raises:
        BuildError: nvcc supports none from 8.0 up to the GPU's.
    """
    number = int("{}{}".format(*capability))
    usable = [a for a in supported_architectures() if 80 <= int(a) <= number]
    if not usable:
        raise BuildError(
            f"{nvcc()}: expected an architecture from 8.0 to {capability[0]}.{capability[1]}, "
            f"found {', '.join(supported_architectures())}"
        )
    return usable[-1]


def nvcc_flags(architecture, ptx=False, to_run=False):
    """Returns nvcc's flags.

    Args:
        architecture: e.g. "90".
        ptx: also include PTX, for newer GPUs.
        to_run: record launches, and do not turn warnings into errors (a GPU host may have other
            compilers). Otherwise PTX is not compressed, so that it can be inspected.
    """
    code = f"[sm_{architecture},compute_{architecture}]" if ptx else f"sm_{architecture}"
    extra = ["-DDLRM_RECORD_LAUNCHES"] if to_run else ["-Werror", "all-warnings", "-no-compress"]
    return [
        "-std=c++17", "-O3", f"-I{OPS}", "-lineinfo", *extra, "-Xptxas", "-v",
        "-Xcompiler", "-fPIC,-Wall", "-gencode", f"arch=compute_{architecture},code={code}",
    ]  # fmt: skip


def _run(command, timeout):
    command = [str(part) for part in command]
    # In a new session, so that a timeout can kill the compiler's children too.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise BuildError(f"{' '.join(command)}: timed out after {timeout:.0f} s") from error
    if process.returncode != 0:
        raise BuildError(f"{' '.join(command)}: exit code {process.returncode}\n{output}")
    return output


def build_once(target, build):
    """Returns the path ``target``; calls ``build(path)`` to write the file if it does not exist.

    Other processes wait, and never see an incomplete file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(target.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = target.with_name("partial-" + target.name)
            build(partial)
            os.replace(partial, target)
    return target


def _digest(files, words):
    digest = hashlib.sha256("\0".join(words).encode())
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _ops_files():
    return [file for pattern in ("*.h", "*.cuh", "*/*.h", "*/*.cu", "*/*.cuh")
            for file in OPS.glob(pattern)]  # fmt: skip


def sources_digest():
    """Returns a digest of the ops' sources: libraries of other sources may differ in structures."""
    return _digest(_ops_files(), [])


def open_library(path):
    """Returns the launchers of a library that was built from this source tree.

    Raises:
        launchers.LibraryError: the file is missing or cannot be loaded, lacks a launcher, or was
            built from other sources.
    """
    library, expected = launchers.Library(path), sources_digest()
    found = library.sources
    if found != expected:
        raise launchers.LibraryError(
            f"{path}: expected a library built from these sources ({expected}), found "
            f"{found or 'one that does not record its sources'}; build it again"
        )
    return library


def compile_objects(architecture, jobs, ptx=False, to_run=False, timeout=600):
    """Compiles every source.

    Args:
        architecture: see ``nvcc_flags``, as for ptx and to_run.
        jobs: number of compilers at a time.
        ptx: also include PTX.
        to_run: record launches.
        timeout: seconds per file.

    Returns:
        (object files, the compiler's report of registers, shared memory and spills per kernel).

    Raises:
        BuildError: nvcc failed or timed out.
    """
    compiler = nvcc()
    flags = nvcc_flags(architecture, ptx, to_run)
    version = _run([compiler, "--version"], 60)
    # The slowest first.
    files = sorted(sources(), key=lambda source: "sorted" not in source.name)
    files += [RECORD] * to_run
    digest = _digest([*_ops_files(), RECORD], [*flags[:2], *flags[3:], version])
    define = f'-DDLRM_SOURCES="{sources_digest()}"'

    def one(source):
        target = CACHE / f"{source.stem}-sm{architecture}-{digest}.o"
        report = target.with_suffix(".txt")

        def make(path):
            words = [*flags, define] if source == RECORD else flags
            report.write_text(_run([compiler, *words, "-c", source, "-o", path], timeout))

        return build_once(target, make), report.read_text()

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, files))
    return [target for target, _ in results], "\n".join(text for _, text in results)


_RESOURCES = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, \d+ bytes "
    r"spill loads\s+ptxas info\s+: Used (\d+) registers"
)


def kernel_resources(report):
    """Returns {kernel: (registers, spilled bytes)} of the project's kernels, from a report."""
    return {
        name: (int(registers), int(spills))
        for name, _, spills, registers in _RESOURCES.findall(report)
        if "dlrm" in name and "cub" not in name
    }


def spilled_kernels(report):
    """Returns the names of the project's kernels that spill registers, from a report."""
    return sorted(name for name, (_, spills) in kernel_resources(report).items() if spills > 0)


def _required():
    """Returns linker flags that make a missing launcher an error."""
    return [f"--require-defined={name}" for name in launchers.SYMBOLS]


def build_for_gpu(architecture, jobs, timeout=600):
    """Builds for an architecture and, as PTX, newer ones; returns (library, compiler's report)."""
    objects, report = compile_objects(architecture, jobs, ptx=True, to_run=True, timeout=timeout)
    digest = objects[0].stem.rsplit("-", 1)[1]
    library = CACHE / f"libdlrm_cuda_kernels-sm{architecture}-{digest}.so"
    link = [nvcc(), "-shared", *(f"-Xlinker={word}" for word in _required())]
    build_once(library, lambda path: _run([*link, "-o", path, *objects], 300))
    return library, report


def build_for_this_gpu(timeout=600):
    """Builds for the GPU of this host; returns (library, compiler's report).

    Raises:
        BuildError: nvcc is missing, does not support the GPU, failed or timed out.
    """
    import torch

    if nvcc() is None:
        raise BuildError("nvcc not found in CUDA_HOME, PATH and /usr/local/cuda/bin; --library "
                         "takes a library that is already built")  # fmt: skip
    architecture = architecture_for(torch.cuda.get_device_capability())
    return build_for_gpu(architecture, os.cpu_count() or 2, timeout)


def cuda_include():
    """Returns nvcc's folder of cuda_runtime.h, or None."""
    if nvcc() is None:
        return None
    done = subprocess.run(
        [nvcc(), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    for folder in re.findall(r'"-I([^"]+)"', done.stderr):
        if (pathlib.Path(folder) / "cuda_runtime.h").exists():
            return pathlib.Path(folder).resolve()
    return None


def _host_compiler():
    return os.environ.get("CXX") or shutil.which("g++") or "c++"


def build_cublaslt(release=13):
    """Compiles the stand-in for cuBLASLt in ``host/cublaslt/``; returns the library.

    It has the name (soname) of NVIDIA's: in a process that has loaded it, launchers find it.

    Args:
        release: of CUDA, 12 or 13.
    """
    folder = HOST / "cublaslt"
    name = f"libcublasLt.so.{release}"
    command = [
        _host_compiler(), "-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-Wall",
        "-Werror", "-Wno-attributes", f"-Wl,-soname,{name}", f"-I{OPS}",
        "-isystem", str(cuda_include()), str(folder / "cublaslt.cc"),
    ]  # fmt: skip
    files = [*folder.iterdir(), OPS / "mlp" / "cublaslt.h"]
    digest = _digest(files, command[:10])
    return build_once(CACHE / f"cublaslt-{digest}" / name, lambda p: _run([*command, "-o", p], 120))


def build_emulation(sanitize=""):
    """Compiles the kernels for the CPU with the emulation in ``host/``; returns the library."""
    compiler = _host_compiler()
    flags = [
        "-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fPIC", "-pipe", "-Wall", "-Werror",
        "-Wno-unknown-pragmas", "-Wno-attributes", f"-I{HOST}", f"-I{OPS}",
        "-isystem", str(cuda_include()), *([f"-fsanitize={sanitize}"] if sanitize else []),
    ]  # fmt: skip
    define = [f'-DDLRM_SOURCES="{sources_digest()}"']
    host_files = [
        file for file in HOST.rglob("*") if file.is_file() and file.parent.name != "cublaslt"
    ]
    digest = _digest([*_ops_files(), *host_files], [compiler, *flags[:10], sanitize])
    link = [*([f"-fsanitize={sanitize}"] if sanitize else []), *(f"-Wl,{w}" for w in _required())]

    def make(path):
        with tempfile.TemporaryDirectory() as folder:

            def compiled(source):
                target = pathlib.Path(folder) / f"{source.stem}.o"
                _run([compiler, *flags, *define, "-x", "c++", "-c", source, "-o", target], 300)
                return target

            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(compiled, [*sources(), *sorted(HOST.glob("*.cc"))]))
            _run([compiler, "-shared", *link, "-o", path, *objects], 60)

    return build_once(CACHE / f"libdlrm_cuda_kernels-emulated-{digest}.so", make)
