"""Loading of the native libraries and selection of the CPU kernels' instruction set."""

import pytest
import tensorflow as tf

from ops import loader
from ops.cpu import instruction_set


@pytest.fixture
def empty_folder(monkeypatch, tmp_path):
    """Makes the loader look for libraries in an empty folder."""
    monkeypatch.setattr(loader, "_FOLDER", tmp_path)
    loader.load.cache_clear()
    yield tmp_path
    loader.load.cache_clear()


@pytest.mark.parametrize(
    ("name", "commands"), [("ops", ["make ops"]), ("mlp", ["--group onednn", "make ops"])]
)
def test_load_reports_a_missing_library(empty_folder, name, commands):
    (empty_folder / f"libdlrm_{name}-tf0.1.so").touch()
    with pytest.raises(loader.LibraryNotBuiltError) as caught:
        loader.load(name)
    assert not loader.is_built(name)
    for part in (str(loader.path(name)), f"libdlrm_{name}-tf0.1.so", *commands):
        assert part in str(caught.value)


def test_load_reports_a_damaged_library(empty_folder):
    loader.path().write_bytes(b"not a library")
    with pytest.raises(loader.LibraryNotBuiltError, match="make ops"):
        loader.load()


def test_kernel_types_are_those_of_the_loaded_kernels():
    if not loader.is_built("mlp"):
        pytest.skip("the MLP library is not built: it needs oneDNN")
    loader.load("mlp")
    for op in ("Dlrm>MlpForward", "Dlrm>MlpBackward"):
        assert loader.kernel_types(op)["CPU"] == (tf.float32, tf.bfloat16)
    assert loader.kernel_types("Dlrm>NoSuchOp") == {}


def test_select_refuses_an_unknown_instruction_set():
    with pytest.raises(instruction_set.InstructionSetError, match=r"portable.*'sse9'"):
        instruction_set.select("sse9")


def test_select_changes_the_current_instruction_set(isa):
    assert instruction_set.current() == isa
