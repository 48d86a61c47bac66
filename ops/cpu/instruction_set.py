"""The instruction set of the CPU kernels: portable, avx2, avx512 or bf16 (AVX-512 with BF16).

The default is the processor's best set. The environment variable ``DLRM_CPU_ISA``, read at the
library's first use, selects another. The functions below are for tests and benchmarks.
"""

from __future__ import annotations

import ctypes
import functools

from ops import loader

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "bf16")  # ascending


class InstructionSetError(ValueError):
    """The instruction set is unknown, or this processor or build lacks it."""


@functools.cache
def _libraries() -> list[ctypes.CDLL]:
    """Returns the built libraries as ctypes objects. Each has a separate setting."""
    loader.load()
    names = ["ops", "mlp"] if loader.is_built("mlp") else ["ops"]
    libraries = []
    for name in names:
        loader.load(name)
        library = ctypes.CDLL(str(loader.path(name)))
        library.dlrm_instruction_set.restype = ctypes.c_char_p
        library.dlrm_select_instruction_set.argtypes = [ctypes.c_char_p]
        libraries.append(library)
    return libraries


def _select(name: str) -> bool:
    """Selects a set in all libraries. Returns whether they support it."""
    codes = [library.dlrm_select_instruction_set(name.encode()) for library in _libraries()]
    return not any(codes)


def current() -> str:
    """Returns the name of the instruction set in use."""
    return _libraries()[0].dlrm_instruction_set().decode()


def select(name: str) -> None:
    """Selects the kernels' instruction set. Do not call while ops are running.

    Raises:
        InstructionSetError: ``name`` is unknown or not supported here.
    """
    if not _select(str(name)):
        raise InstructionSetError(f"instruction set: expected one of {available()}, found {name!r}")


def available() -> tuple[str, ...]:
    """Returns the names of the instruction sets that this processor and build support."""
    before = current()
    found = [name for name in INSTRUCTION_SETS if _select(name)]
    _select(before)
    return tuple(found)
