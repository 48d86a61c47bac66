"""Builds the CUDA kernels as a plain shared library: for a GPU by nvcc, or emulated on the CPU.

A library's name carries the hash of all that it is made from: an unchanged tree builds nothing.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
HOST = ROOT / "tests" / "gpu" / "host"
CACHE = ROOT / "build" / "cuda"


class BuildError(RuntimeError):
    """A compiler refused a source file; the message holds what it printed."""


def sources():
    """Returns the CUDA source files of the ops."""
    return sorted(OPS.glob("*/*.cu"))


def nvcc():
    """Returns the path of nvcc, or None."""
    found = shutil.which("nvcc")
    usual = pathlib.Path("/usr/local/cuda/bin/nvcc")
    return found or (str(usual) if usual.exists() else None)


def nvcc_flags(architecture, ptx=False):
    """Returns the flags for one architecture, e.g. "90"; with ``ptx`` also for newer ones."""
    code = f"[sm_{architecture},compute_{architecture}]" if ptx else f"sm_{architecture}"
    return [
        "-std=c++17", "-O3", f"-I{OPS}", "-lineinfo", "-Werror", "all-warnings", "-Xptxas", "-v",
        "-Xcompiler", "-fPIC,-Wall", "-gencode", f"arch=compute_{architecture},code={code}",
    ]  # fmt: skip


def _run(command, timeout):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(
            f"{' '.join(map(str, command))} returned {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout + done.stderr


def _digest(files, words):
    digest = hashlib.sha256("\0".join(words).encode())
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _ops_files():
    return [*OPS.glob("*.h"), *OPS.glob("*.cuh"), *OPS.glob("*/*.cu"), *OPS.glob("*/*.cuh"),
            *OPS.glob("*/*_launchers.h")]  # fmt: skip


def compile_objects(architecture, jobs, ptx=False):
    """Compiles every source for one architecture.

    Returns:
        (object files, compiler's resource report): registers, shared memory and spills per kernel.
    """
    compiler = nvcc()
    flags = nvcc_flags(architecture, ptx)
    version = _run([compiler, "--version"], 60)
    digest = _digest(_ops_files(), [*flags[:2], *flags[3:], version])
    CACHE.mkdir(parents=True, exist_ok=True)

    def one(source):
        target = CACHE / f"{source.stem}-sm{architecture}-{digest}.o"
        report = target.with_suffix(".txt")
        if not (target.exists() and report.exists()):
            partial = target.with_suffix(f".{os.getpid()}.o")
            text = _run([compiler, *flags, "-c", source, "-o", partial], 600)
            report.write_text(text)
            os.replace(partial, target)
        return target, report.read_text()

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, sources()))
    return [target for target, _ in results], "\n".join(text for _, text in results)


def spilled_kernels(report):
    """Names of the project's kernels whose registers went to local memory, from a report."""
    found = re.findall(
        r"Function properties for (\S+)\s+\d+ bytes stack frame, (\d+) bytes spill stores", report
    )
    return sorted({name for name, spilled in found if int(spilled) > 0 and "dlrm" in name
                   and "cub" not in name})  # fmt: skip


def ptx(architecture):
    """Returns the PTX of all sources for one architecture."""
    flags = [f"-I{OPS}", "-std=c++17", "-O3", f"-arch=compute_{architecture}", "-ptx"]
    digest = _digest(_ops_files(), flags[1:])
    target = CACHE / f"kernels-compute{architecture}-{digest}.ptx"
    CACHE.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.part")
        text = []
        # CUB's sort is not ours to inspect, and slow to compile.
        for source in (source for source in sources() if "sorted" not in source.name):
            _run([nvcc(), *flags, source, "-o", partial], 300)
            text.append(partial.read_text())
        partial.write_text("\n".join(text))
        os.replace(partial, target)
    return target.read_text()


def build_for_gpu(architecture, jobs):
    """Returns the path of libdlrm_cuda_kernels.so for a GPU of that compute capability."""
    objects, report = compile_objects(architecture, jobs)
    digest = objects[0].stem.rsplit("-", 1)[1]
    library = CACHE / f"libdlrm_cuda_kernels-sm{architecture}-{digest}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}.so")
        _run([nvcc(), "-shared", "-o", partial, *objects], 300)
        os.replace(partial, library)
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
        "-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fPIC", "-Wall", "-Werror",
        "-Wno-unknown-pragmas", "-Wno-attributes", f"-I{HOST}", f"-I{OPS}",
        "-isystem", str(cuda_include()), *([f"-fsanitize={sanitize}"] if sanitize else []),
    ]  # fmt: skip
    host_files = [file for file in HOST.rglob("*") if file.is_file()]
    digest = _digest([*_ops_files(), *host_files], [compiler, *flags[:9], sanitize])
    CACHE.mkdir(parents=True, exist_ok=True)
    library = CACHE / f"libdlrm_cuda_kernels-emulated-{digest}.so"
    if library.exists():
        return library
    objects = []
    for source in [*sources(), *sorted(HOST.glob("*.cc"))]:
        target = CACHE / f"{source.stem}-emulated-{digest}.o"
        _run([compiler, *flags, "-x", "c++", "-c", source, "-o", target], 300)
        objects.append(target)
    partial = library.with_suffix(f".{os.getpid()}.so")
    link = [f"-fsanitize={sanitize}"] if sanitize else []
    _run([compiler, "-shared", *link, "-o", partial, *objects], 60)
    os.replace(partial, library)
    return library
