"""Builds the CUDA kernels as a plain shared library: for a GPU by nvcc, or emulated on the CPU.

A library's name carries the hash of all that it is made from: an unchanged tree builds nothing.
Several processes may ask for the same one at a time: one makes it, the others wait.
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
    """A compiler refused a source file; the message holds what it printed."""


def sources():
    """Returns the CUDA source files of the ops."""
    return sorted(OPS.glob("*/*.cu"))


def nvcc():
    """Returns the path of nvcc, or None: of CUDA_HOME, of PATH, or the usual place."""
    home = os.environ.get("CUDA_HOME")
    places = [f"{home}/bin"] * bool(home) + [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def known_architectures():
    """Returns the numbers that nvcc compiles for, as strings, the smallest first."""
    listed = _run([nvcc(), "--list-gpu-arch"], 60)
    return sorted(re.findall(r"compute_(\d+)$", listed, re.MULTILINE), key=int)


def generations():
    """Returns the architectures that the op library is built for by default, as strings.

    Those of `ops/cuda_architectures.cmake`, less the ones that nvcc does not know; [] without nvcc.
    """
    if nvcc() is None:
        return []
    text = (OPS / "cuda_architectures.cmake").read_text()
    named = re.search(r"set\(DLRM_CUDA_GENERATIONS ([\d ]+)\)", text)[1].split()
    known = known_architectures()
    return [architecture for architecture in named if architecture in known]


def architecture_for(capability):
    """Returns the architecture to compile for a GPU: its own, or the newest before it.

    Args:
        capability: (major, minor) of the GPU.

    Raises:
        BuildError: nvcc knows none that the GPU runs and the kernels support (8.0 or later).
    """
    number = int("{}{}".format(*capability))
    usable = [a for a in known_architectures() if 80 <= int(a) <= number]
    if not usable:
        raise BuildError(
            f"nvcc {nvcc()} knows no architecture from 8.0 that a GPU of "
            f"{capability[0]}.{capability[1]} runs"
        )
    return usable[-1]


def nvcc_flags(architecture, ptx=False, to_run=False):
    """Returns the flags for one architecture, e.g. "90"; with ``ptx`` also for newer ones.

    ``to_run``: for a GPU host, whose compilers may warn of what ours do not; launches are recorded.
    """
    code = f"[sm_{architecture},compute_{architecture}]" if ptx else f"sm_{architecture}"
    extra = ["-DDLRM_RECORD_LAUNCHES"] if to_run else ["-Werror", "all-warnings"]
    return [
        "-std=c++17", "-O3", f"-I{OPS}", "-lineinfo", *extra, "-Xptxas", "-v",
        "-Xcompiler", "-fPIC,-Wall", "-gencode", f"arch=compute_{architecture},code={code}",
    ]  # fmt: skip


def _run(command, timeout):
    command = [str(part) for part in command]
    # In a session of its own: a compiler that is stopped must take its children with it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise BuildError(f"{' '.join(command)} took longer than {timeout:.0f} seconds") from error
    if process.returncode != 0:
        raise BuildError(f"{' '.join(command)} returned {process.returncode}:\n{output}")
    return output


def made(target, make):
    """Returns the path ``target``; ``make(path)`` writes the file unless it is there.

    No process sees a file that is half written, which a linker takes for an empty one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(target.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = target.with_name("partial-" + target.name)
            make(partial)
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


def compile_objects(architecture, jobs, ptx=False, to_run=False, timeout=600):
    """Compiles every source for one architecture; see ``nvcc_flags``.

    Returns:
        (object files, compiler's resource report): registers, shared memory and spills per kernel.

    Raises:
        BuildError: nvcc refused a file, or took longer than ``timeout`` seconds for one.
    """
    compiler = nvcc()
    flags = nvcc_flags(architecture, ptx, to_run)
    version = _run([compiler, "--version"], 60)
    # The longest first.
    files = sorted(sources(), key=lambda source: "sorted" not in source.name)
    files += [RECORD] * to_run
    digest = _digest([*_ops_files(), RECORD], [*flags[:2], *flags[3:], version])

    def one(source):
        target = CACHE / f"{source.stem}-sm{architecture}-{digest}.o"
        report = target.with_suffix(".txt")

        def make(path):
            report.write_text(_run([compiler, *flags, "-c", source, "-o", path], timeout))

        return made(target, make), report.read_text()

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, files))
    return [target for target, _ in results], "\n".join(text for _, text in results)


_RESOURCES = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, \d+ bytes "
    r"spill loads\s+ptxas info\s+: Used (\d+) registers"
)


def kernel_resources(report):
    """Returns {name: (registers, bytes of spills)} of the project's kernels, from a report."""
    return {
        name: (int(registers), int(spills))
        for name, _, spills, registers in _RESOURCES.findall(report)
        if "dlrm" in name and "cub" not in name
    }


def spilled_kernels(report):
    """Names of the project's kernels whose registers went to local memory, from a report."""
    return sorted(name for name, (_, spills) in kernel_resources(report).items() if spills > 0)


def ptx(architecture):
    """Returns the PTX of all sources for one architecture."""
    flags = [f"-I{OPS}", "-std=c++17", "-O3", f"-arch=compute_{architecture}", "-ptx"]
    digest = _digest(_ops_files(), flags[1:])

    def make(path):
        text = []
        # CUB's sort is not ours to inspect, and slow to compile.
        for source in (source for source in sources() if "sorted" not in source.name):
            _run([nvcc(), *flags, source, "-o", path], 300)
            text.append(path.read_text())
        path.write_text("\n".join(text))

    return made(CACHE / f"kernels-compute{architecture}-{digest}.ptx", make).read_text()


def _required():
    """Flags of the linker: a library that lacks a launcher is not linked."""
    return [f"--require-defined={name}" for name in launchers.SYMBOLS]


def build_for_gpu(architecture, jobs, timeout=600):
    """Returns (libdlrm_cuda_kernels.so for an architecture and newer ones, resource report)."""
    # PTX as well: the GPU may be newer than all that nvcc knows.
    objects, report = compile_objects(architecture, jobs, ptx=True, to_run=True, timeout=timeout)
    digest = objects[0].stem.rsplit("-", 1)[1]
    library = CACHE / f"libdlrm_cuda_kernels-sm{architecture}-{digest}.so"
    link = [nvcc(), "-shared", *(f"-Xlinker={word}" for word in _required())]
    made(library, lambda path: _run([*link, "-o", path, *objects], 300))
    return library, report


def cuda_include():
    """Returns the folder of cuda_runtime.h that nvcc uses, or None."""
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


def build_emulation(sanitize=""):
    """Compiles the kernels with the host's C++ compiler against the emulation in ``host/``."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    flags = [
        "-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fPIC", "-pipe", "-Wall", "-Werror",
        "-Wno-unknown-pragmas", "-Wno-attributes", f"-I{HOST}", f"-I{OPS}",
        "-isystem", str(cuda_include()), *([f"-fsanitize={sanitize}"] if sanitize else []),
    ]  # fmt: skip
    host_files = [file for file in HOST.rglob("*") if file.is_file()]
    digest = _digest([*_ops_files(), *host_files], [compiler, *flags[:10], sanitize])
    link = [*([f"-fsanitize={sanitize}"] if sanitize else []), *(f"-Wl,{w}" for w in _required())]

    def make(path):
        with tempfile.TemporaryDirectory() as folder:

            def compiled(source):
                target = pathlib.Path(folder) / f"{source.stem}.o"
                _run([compiler, *flags, "-x", "c++", "-c", source, "-o", target], 300)
                return target

            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(compiled, [*sources(), *sorted(HOST.glob("*.cc"))]))
            _run([compiler, "-shared", *link, "-o", path, *objects], 60)

    return made(CACHE / f"libdlrm_cuda_kernels-emulated-{digest}.so", make)
