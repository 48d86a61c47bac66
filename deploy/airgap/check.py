"""Checks a bundle's tree on the machine that builds it, without a GPU and without a network."""

from __future__ import annotations

import pathlib
import subprocess
import tempfile

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
    """Starts TensorFlow in a bundle's tree, loads the op libraries, and counts the GPUs listed.

    Args:
        tree: the bundle's root.
        driver: a folder with a `libcuda.so.1`, or None.

    Raises:
        RuntimeError: TensorFlow or an op library did not load.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": "/usr/bin:/bin", "HOME": home}
        if driver is not None:
            environment["LD_LIBRARY_PATH"] = str(driver)
        done = subprocess.run(
            [str(pathlib.Path(tree) / "dlrm"), "python", "-c", _PROGRAM], env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    _, found, count = done.stdout.partition("GPUs: ")
    if done.returncode != 0 or not found:
        raise RuntimeError(f"the bundle's Python returned {done.returncode}: {done.stderr[-3000:]}")
    return int(count)


def standin_driver(folder: pathlib.Path) -> pathlib.Path:
    """Compiles the stand-in driver's two libraries; returns the folder that holds them.

    Raises:
        RuntimeError: the compiler refused.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        done = subprocess.run(
            ["cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name),
             str(HERE / "standin_driver.c")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"cc made no stand-in driver: {done.stderr.strip()}")
    return folder


def all_libraries_open(tree: pathlib.Path, folder: pathlib.Path) -> None:
    """Checks that TensorFlow opens every CUDA library that it wants before it lists a GPU.

    Raises:
        RuntimeError: it lists none although a driver says that there is one.
    """
    listed = gpus(tree, standin_driver(folder))
    if listed != 1:
        raise RuntimeError(
            f"TensorFlow lists {listed} GPUs beside a driver with one: a CUDA library that it "
            "opens by name is missing (LD_DEBUG=libs names it)"
        )
