"""Which CUDA libraries a bundle carries.

TensorFlow opens CUDA libraries by name before it registers a GPU, and registers none if one of them
does not open (`docs/airgap.md` says how that was found out, for each release in `RELEASES`). Of
those, training calls the runtime, cuBLAS, cuBLASLt and cuDNN's handle. The others must open, but
nothing of them is called: a placeholder, a library of the right name without a single function,
stands for each.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

from deploy import cuda_links

_RUNTIME = "nvidia-cuda-runtime-cu12"
# The same for every release of CUDA 12. Where TensorFlow looks for them is where pip puts them.
_CUDA_12 = {
    _RUNTIME: ["nvidia/cuda_runtime/lib/libcudart.so.12"],
    "nvidia-cublas-cu12": [
        "nvidia/cublas/lib/libcublas.so.12",
        "nvidia/cublas/lib/libcublasLt.so.12",
    ],
    # --profile records GPU kernels through it.
    "nvidia-cuda-cupti-cu12": ["nvidia/cuda_cupti/lib/libcupti.so.12"],
    # XLA's assembler, and the functions that its kernels call.
    "nvidia-cuda-nvcc-cu12": [
        "nvidia/cuda_nvcc/bin/ptxas",
        "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc",
    ],
}
_PLACEHOLDERS_12 = {
    "nvidia-cufft-cu12": ("nvidia/cufft/lib/libcufft.so.11", "tf.signal.*fft*"),
    "nvidia-cusolver-cu12": ("nvidia/cusolver/lib/libcusolver.so.11", "tf.linalg"),
    "nvidia-cusparse-cu12": ("nvidia/cusparse/lib/libcusparse.so.12", "tf.sparse"),
}
_CUDNN = "nvidia-cudnn-cu12"
#: What a bundle carries: "called" the libraries that training calls; "complete" every library
#: whole; "lean" the runtime alone, the rest being the host's (`deploy.airgap.host_cuda`).
CONTENTS = ("called", "complete", "lean")


class Release(NamedTuple):
    """The CUDA libraries of a TensorFlow release.

    Attributes:
        carried: {package: files taken from its wheel}.
        placeholders: {package: (path, what would call it)}; the whole libraries come with
            `--complete`.
        needed_in_turn: packages that only whole libraries need.
    """

    carried: Mapping[str, list[str]]
    placeholders: Mapping[str, tuple[str, str]]
    needed_in_turn: tuple[str, ...]


#: By TensorFlow's major.minor. Of cuDNN: what TensorFlow opens, and what making a handle loads.
RELEASES = {
    "2.15": Release(
        {
            **_CUDA_12,
            _CUDNN: [
                "nvidia/cudnn/lib/libcudnn.so.8",
                "nvidia/cudnn/lib/libcudnn_ops_infer.so.8",
            ],
        },
        _PLACEHOLDERS_12,
        ("nvidia-nvjitlink-cu12",),
    ),
    "2.21": Release(
        {
            **_CUDA_12,
            _CUDNN: ["nvidia/cudnn/lib/libcudnn.so.9", "nvidia/cudnn/lib/libcudnn_graph.so.9"],
        },
        _PLACEHOLDERS_12,
        ("nvidia-nvjitlink-cu12", "nvidia-cuda-nvrtc-cu12", "nvidia-nccl-cu12"),
    ),
}


def release(tensorflow: str) -> Release:
    """Returns the libraries of a TensorFlow version, "2.21.0" for example.

    Raises:
        RuntimeError: which libraries that release opens is not known here.
    """
    minor = ".".join(tensorflow.split(".")[:2])
    if minor not in RELEASES:
        raise RuntimeError(
            f"which CUDA libraries TensorFlow {tensorflow} opens is not known: expected "
            f"{' or '.join(RELEASES)}; make a bundle of one of those (make TENSORFLOW=... airgap)"
        )
    return RELEASES[minor]


def pins_of(lock: str) -> dict[str, str]:
    """Returns {package: "package==version"} of NVIDIA's packages in the text of a lock."""
    found = re.finditer(r"^(nvidia-[\w.-]+)==([^\s;]+)", lock, re.MULTILINE)
    return {match[1]: match[0] for match in found}


def packages(tensorflow: str, contents: str = "called") -> list[str]:
    """Returns the names of the packages whose wheels are needed.

    Args:
        tensorflow: its version.
        contents: one of `CONTENTS`.

    Raises:
        RuntimeError: of `release`.
    """
    carried, placeholders, needed_in_turn = release(tensorflow)
    if contents == "lean":
        return [_RUNTIME]
    return [*carried, *placeholders, *needed_in_turn] if contents == "complete" else list(carried)


def install(
    tensorflow: str,
    wheels: Mapping[str, pathlib.Path],
    site_packages: pathlib.Path,
    contents: str = "called",
) -> dict[str, str]:
    """Puts the libraries where TensorFlow looks for them.

    Args:
        tensorflow: its version.
        wheels: {package: path of its wheel}, one for each of `packages(tensorflow, contents)`.
        site_packages: the folder that holds `tensorflow/`.
        contents: one of `CONTENTS`.

    Returns:
        {path relative to site_packages: what it is}, for the bundle's listing.

    Raises:
        RuntimeError: a wheel lacks a file; no C compiler makes a placeholder.
    """
    carried, placeholders, _ = release(tensorflow)
    complete = contents == "complete"
    site_packages, placed = pathlib.Path(site_packages), {}
    for package, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            wanted = carried.get(package)
            if wanted is None or (complete and package == _CUDNN):
                wanted = sorted(name for name in names if re.search(r"\.so(\.\d+)*$", name))
            licences = [n for n in names if re.search(r"dist-info/(.*/)?licen[sc]e", n, re.I)]
            absent = [name for name in wanted if name not in names]
            if absent or not wanted:
                raise RuntimeError(f"{wheel} does not hold {', '.join(absent) or 'a library'}")
            for name in [*wanted, *licences]:
                _extract(archive, name, site_packages)
            placed.update(dict.fromkeys(wanted, package))
    if not complete:
        for package, (name, callers) in placeholders.items():
            placeholder(site_packages / name)
            placed[name] = f"placeholder for {package} ({callers})"
    cuda_links.link(site_packages)
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
