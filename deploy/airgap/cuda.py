"""The CUDA libraries of a bundle.

TensorFlow loads CUDA libraries by name and registers no GPU if one of them does not load
(docs/airgap.md describes how this was determined for `RELEASES`). Training calls only the runtime,
cuBLAS, cuBLASLt and cuDNN's handle. The others must load, but none of their functions is called,
so that a bundle has placeholders for them: libraries of the same name without functions.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

from deploy import cuda_links
from deploy.airgap import BundleError

_RUNTIME = "nvidia-cuda-runtime-cu12"
# Common to all releases of CUDA 12. TensorFlow searches the folders that pip installs to.
_CUDA_12 = {
    _RUNTIME: ["nvidia/cuda_runtime/lib/libcudart.so.12"],
    "nvidia-cublas-cu12": [f"nvidia/cublas/lib/libcublas{part}.so.12" for part in ("", "Lt")],
    # --profile_steps records GPU kernels with it.
    "nvidia-cuda-cupti-cu12": ["nvidia/cuda_cupti/lib/libcupti.so.12"],
    # XLA's assembler and device functions.
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


class Release(NamedTuple):
    """The CUDA libraries of a TensorFlow release.

    Attributes:
        called: {package: files to take from its wheel}.
        placeholders: {package: (path, its callers)}; `--complete` has the real libraries.
        indirect: packages that only complete libraries depend on.
    """

    called: Mapping[str, list[str]]
    placeholders: Mapping[str, tuple[str, str]]
    indirect: tuple[str, ...]


def _with_cudnn(*names: str) -> dict[str, list[str]]:
    return {**_CUDA_12, _CUDNN: [f"nvidia/cudnn/lib/{name}" for name in names]}


#: {TensorFlow major.minor: its libraries}. Of cuDNN, those that TensorFlow and cudnnCreate load.
RELEASES = {
    "2.15": Release(
        _with_cudnn("libcudnn.so.8", "libcudnn_ops_infer.so.8"),
        _PLACEHOLDERS_12,
        ("nvidia-nvjitlink-cu12",),
    ),
    "2.21": Release(
        _with_cudnn("libcudnn.so.9", "libcudnn_graph.so.9"),
        _PLACEHOLDERS_12,
        ("nvidia-nvjitlink-cu12", "nvidia-cuda-nvrtc-cu12", "nvidia-nccl-cu12"),
    ),
}


def release(tensorflow: str) -> Release:
    """Returns the libraries of a TensorFlow version, such as "2.21.0".

    Raises:
        BundleError: the release is not in `RELEASES`.
    """
    minor = ".".join(tensorflow.split(".")[:2])
    if minor not in RELEASES:
        raise BundleError(
            f"CUDA libraries: expected TensorFlow {' or '.join(RELEASES)}, found {tensorflow}; try "
            "make TENSORFLOW=VERSION airgap",
            expected=list(RELEASES), found=tensorflow,
        )  # fmt: skip
    return RELEASES[minor]


def pins_of(lock: str) -> dict[str, str]:
    """Returns {package: "package==version"} of the NVIDIA packages in a lock's text."""
    found = re.finditer(r"^(nvidia-[\w.-]+)==([^\s;]+)", lock, re.MULTILINE)
    return {match[1]: match[0] for match in found}


def packages(tensorflow: str, contents: str = "called") -> list[str]:
    """Returns the names of the packages whose wheels are needed.

    Args:
        tensorflow: TensorFlow version.
        contents: "called": the libraries that training calls, and placeholders; "complete": all
            libraries; "lean": only the runtime, with the rest from the host.

    Raises:
        BundleError: the release is not in `RELEASES`.
    """
    called, placeholders, indirect = release(tensorflow)
    if contents == "lean":
        return [_RUNTIME]
    return [*called, *placeholders, *indirect] if contents == "complete" else list(called)


def install(
    tensorflow: str,
    wheels: Mapping[str, pathlib.Path],
    site_packages: pathlib.Path,
    contents: str = "called",
) -> dict[str, str]:
    """Installs the libraries to where TensorFlow searches them.

    Args:
        tensorflow: as in `packages`.
        wheels: {package: path of its wheel} for each of `packages(tensorflow, contents)`.
        site_packages: the folder that contains `tensorflow/`.
        contents: as in `packages`.

    Returns:
        {path relative to site_packages: its package or what it is a placeholder for}.

    Raises:
        BundleError: a wheel lacks a file, or a placeholder does not compile.
    """
    called, placeholders, _ = release(tensorflow)
    complete = contents == "complete"
    placed = {}
    for package, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            wanted = called.get(package)
            if wanted is None or (complete and package == _CUDNN):
                wanted = sorted(name for name in names if re.search(r"\.so(\.\d+)*$", name))
            licences = [n for n in names if re.search(r"dist-info/(.*/)?licen[sc]e", n, re.I)]
            absent = [name for name in wanted if name not in names]
            if absent or not wanted:
                missing = ", ".join(absent) or "a library"
                raise BundleError.of_path(wheel, f"expected {missing}", expected=missing)
            for name in [*wanted, *licences]:
                archive.extract(name, site_packages)
                # zipfile does not restore permissions.
                mode = 0o755 if "/bin/" in name or ".so" in name else 0o644
                (site_packages / name).chmod(mode)
            placed.update(dict.fromkeys(wanted, package))
    if not complete:
        for package, (name, callers) in placeholders.items():
            placeholder(site_packages / name)
            placed[name] = f"placeholder for {package} ({callers})"
    cuda_links.link(site_packages)
    return placed


def placeholder(path: pathlib.Path) -> None:
    """Compiles a shared library without functions, with the file's name as SONAME.

    Raises:
        BundleError: the compiler failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["cc", "-shared", "-nostdlib", "-x", "c", "-", f"-Wl,-soname,{path.name}",
         "-Wl,-z,noexecstack", "-o", str(path)],
        input="", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BundleError(f"cannot compile placeholder {path}: {done.stderr.strip()}", path=path)
