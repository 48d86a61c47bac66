"""Which instruction set the CPU kernels use: portable, avx2, avx512 or bf16 (AVX-512 with BF16).

The best that the processor has is taken, unless the environment variable ``DLRM_CPU_ISA`` names
another when the library is first used. The calls below are for tests and benchmarks.
"""

import ctypes
import functools

from ops import loader

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "bf16")  # ascending


class InstructionSetError(ValueError):
    """The instruction set is unknown, or this processor or build does not have it."""


@functools.cache
def _native():
    loader.load()
    native = ctypes.CDLL(str(loader.path()))
    native.dlrm_instruction_set.restype = ctypes.c_char_p
    native.dlrm_select_instruction_set.argtypes = [ctypes.c_char_p]
    return native


def current():
    """Returns the name of the instruction set in use."""
    return _native().dlrm_instruction_set().decode()


def select(name):
    """Makes the kernels use an instruction set from now on. Not while ops are running.

    Raises:
        InstructionSetError: ``name`` is unknown, or not available here.
    """
    if _native().dlrm_select_instruction_set(str(name).encode()) != 0:
        raise InstructionSetError(
            f"instruction set {name!r} cannot be used: expected one of {available()}"
        )


def available():
    """Returns the names of the instruction sets that this processor and this build have."""
    before = current()
    native = _native()
    found = [
        name for name in INSTRUCTION_SETS if native.dlrm_select_instruction_set(name.encode()) == 0
    ]
    native.dlrm_select_instruction_set(before.encode())
    return tuple(found)
