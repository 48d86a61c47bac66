"""Checks a bundle's tree on the build machine, without a GPU."""

from __future__ import annotations

import pathlib
import subprocess
import tempfile

from deploy.airgap import BundleError

HERE = pathlib.Path(__file__).resolve().parent
_PROGRAM = """
import tensorflow as tf
from ops import loader
for name in ("ops", "mlp"):
    if loader.is_built(name):
        loader.load(name)
print("GPUs:", len(tf.config.list_physical_devices("GPU")))
"""


def gpus(tree: pathlib.Path, driver: pathlib.Path | None = None) -> int:
    """Returns the number of GPUs that a bundle's TensorFlow lists, after loading the op libraries.

    `driver` is a folder with a `libcuda.so.1`, or None.

    Raises:
        BundleError: TensorFlow or an op library did not load.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": "/usr/bin:/bin", "HOME": home}
        if driver is not None:
            environment["LD_LIBRARY_PATH"] = str(driver)
        done = subprocess.run(
            [str(tree / "dlrm"), "python", "-c", _PROGRAM], env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    _, found, count = done.stdout.partition("GPUs: ")
    if done.returncode != 0 or not found:
        raise BundleError(
            f"the bundle's Python returned {done.returncode}: {done.stderr[-3000:]}", path=tree
        )
    return int(count)


def stub_driver(folder: pathlib.Path) -> pathlib.Path:
    """Compiles the stub driver's two libraries into a folder; returns the folder.

    Raises:
        BundleError: the compiler failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        done = subprocess.run(
            ["cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name),
             str(HERE / "stub_driver.c")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise BundleError(f"cannot compile the stub driver: {done.stderr.strip()}")
    return folder


def check_cuda_libraries_load(tree: pathlib.Path, folder: pathlib.Path) -> None:
    """Checks that a bundle's TensorFlow loads all CUDA libraries that it needs to list a GPU.

    Compiles the stub driver in `folder`.

    Raises:
        BundleError: TensorFlow lists no GPU with a driver that reports one.
    """
    listed = gpus(tree, stub_driver(folder))
    if listed != 1:
        raise BundleError(
            f"TensorFlow with the stub driver: expected 1 GPU, found {listed}; a CUDA library is "
            "missing; run with LD_DEBUG=libs to see which"
        )
