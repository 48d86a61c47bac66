"""Which CUDA libraries a bundle carries.

TensorFlow 2.15 opens seven libraries by name before it registers a GPU, and registers none if one
of them does not open (`docs/airgap.md` says how that was found out). Of those, training calls the
runtime, cuBLAS, cuBLASLt and cuDNN's handle. The others must open, but nothing of them is called: a
placeholder, a library of the right name without a single function, stands for each.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import zipfile
from collections.abc import Iterable, Mapping

# {package: files taken from its wheel}. Where TensorFlow looks for them is where pip puts them.
CARRIED = {
    "nvidia-cuda-runtime-cu12": ["nvidia/cuda_runtime/lib/libcudart.so.12"],
    "nvidia-cublas-cu12": [
        "nvidia/cublas/lib/libcublas.so.12",
        "nvidia/cublas/lib/libcublasLt.so.12",
    ],
    # The face that TensorFlow opens, and the part that making a handle loads.
    "nvidia-cudnn-cu12": [
        "nvidia/cudnn/lib/libcudnn.so.8",
        "nvidia/cudnn/lib/libcudnn_ops_infer.so.8",
    ],
    # --profile records GPU kernels through it.
    "nvidia-cuda-cupti-cu12": ["nvidia/cuda_cupti/lib/libcupti.so.12"],
    # XLA's assembler, and the functions that its kernels call.
    "nvidia-cuda-nvcc-cu12": [
        "nvidia/cuda_nvcc/bin/ptxas",
        "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc",
    ],
}
# {package: (path, what would call it)}. The whole libraries come with --complete.
PLACEHOLDERS = {
    "nvidia-cufft-cu12": ("nvidia/cufft/lib/libcufft.so.11", "tf.signal.*fft*"),
    "nvidia-cusolver-cu12": ("nvidia/cusolver/lib/libcusolver.so.11", "tf.linalg"),
    "nvidia-cusparse-cu12": ("nvidia/cusparse/lib/libcusparse.so.12", "tf.sparse"),
}


def pins_of(requirements: Iterable[str]) -> dict[str, str]:
    """Returns {package: "package==version"} of the extra `and-cuda` among requirement lines."""
    found = {}
    for line in requirements:
        match = re.match(r"([\w.-]+)\s*\(?==\s*([\w.]+)\)?\s*;.*extra == ['\"]and-cuda['\"]", line)
        if match:
            found[match[1]] = f"{match[1]}=={match[2]}"
    return found


def packages(complete: bool) -> list[str]:
    """Returns the names of the packages whose wheels are needed.

    Args:
        complete: whole libraries instead of placeholders, and those that they need in turn.
    """
    return [*CARRIED, *PLACEHOLDERS, "nvidia-nvjitlink-cu12"] if complete else list(CARRIED)


def install(
    wheels: Mapping[str, pathlib.Path], site_packages: pathlib.Path, complete: bool
) -> dict[str, str]:
    """Puts the libraries where TensorFlow looks for them.

    Args:
        wheels: {package: path of its wheel}, one for each of `packages(complete)`.
        site_packages: the folder that holds `tensorflow/`.
        complete: as in `packages`.

    Returns:
        {path relative to site_packages: what it is}, for the bundle's listing.

    Raises:
        RuntimeError: a wheel lacks a file; no C compiler makes a placeholder.
    """
    site_packages, placed = pathlib.Path(site_packages), {}
    for package, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            wanted = CARRIED.get(package)
            if wanted is None or (complete and package == "nvidia-cudnn-cu12"):
                wanted = sorted(name for name in names if re.search(r"\.so(\.\d+)*$", name))
            licences = [n for n in names if re.search(r"dist-info/(.*/)?licen[sc]e", n, re.I)]
            absent = [name for name in wanted if name not in names]
            if absent or not wanted:
                raise RuntimeError(f"{wheel} does not hold {', '.join(absent) or 'a library'}")
            for name in [*wanted, *licences]:
                _extract(archive, name, site_packages)
            placed.update(dict.fromkeys(wanted, package))
    if not complete:
        for package, (name, callers) in PLACEHOLDERS.items():
            placeholder(site_packages / name)
            placed[name] = f"placeholder for {package} ({callers})"
    return placed


def _extract(archive, name, folder):
    archive.extract(name, folder)
    # Wheels carry permissions in a field that zipfile does not apply.
    (pathlib.Path(folder) / name).chmod(0o755 if "/bin/" in name or ".so" in name else 0o644)


def placeholder(path: pathlib.Path) -> None:
    """Makes a shared library of that name without any function.

    Raises:
        RuntimeError: the compiler refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["cc", "-shared", "-nostdlib", "-x", "c", "-", f"-Wl,-soname,{path.name}",
         "-Wl,-z,noexecstack", "-o", str(path)],
        input="", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"cc made no placeholder {path}: {done.stderr.strip()}")
