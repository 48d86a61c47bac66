"""The emulated launchers, for tests."""

from __future__ import annotations

import pytest

from tests.gpu import build, launchers, memory


def load() -> tuple[launchers.Library, memory.HostMemory]:
    """Returns the launchers and the memory that they work on; skips the test without CUDA."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the CUDA kernels are not run, even emulated")
    return launchers.Library(build.build_emulation()), memory.HostMemory()
