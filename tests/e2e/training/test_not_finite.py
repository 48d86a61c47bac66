"""NaN and infinity are detected in every implementation and on every instruction set."""

import os
import subprocess
import sys

import pytest

from ops import loader
from ops.cpu import instruction_set
from tests.support.paths import ROOT
from tests.support.training.not_finite import PATHS, check_places

# {instruction set of our kernels: (environment that makes TensorFlow and oneDNN use it, dtypes)}.
# oneDNN gets a limit, or is disabled, as TensorFlow does on processors without VNNI. Below AVX-512,
# oneDNN has no bfloat16, but TensorFlow does not know about the limit.
PROCESSORS = {
    "portable": ({"TF_ENABLE_ONEDNN_OPTS": "0"}, ("float32", "bfloat16")),
    "avx2": ({"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}, ("float32",)),
    "avx512": ({"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
               ("float32", "bfloat16")),
    "bf16": ({"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
             ("bfloat16",)),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "dtype"), PATHS)
def test_step_keeps_nan_and_infinity(layers, dtype, rng):
    check_places(layers, dtype, rng)


@pytest.mark.parametrize("isa", PROCESSORS)
def test_instruction_set_keeps_nan_and_infinity(isa, seed):
    """One process each, because oneDNN reads its variable only once."""
    if not loader.is_built() or isa not in instruction_set.available():
        pytest.skip(f"this processor or build does not have {isa}")
    limits, dtypes = PROCESSORS[isa]
    native = "fused_interaction" if loader.is_built("mlp") else "interaction"
    cases = [(layers, dtype) for layers in ("tensorflow", native) for dtype in dtypes]
    script = (
        "from ops.cpu import instruction_set\n"
        "from tests.support.training.not_finite import check_places\n"
        "import numpy as np\n"
        f"rng = np.random.default_rng({seed})\n"
        f"assert instruction_set.current() == {isa!r}\n"
        f"for case in {cases}:\n"
        "    check_places(*case, rng)\n"
        "    print('checked', *case)\n"
    )
    environment = {**os.environ, **limits, "DLRM_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checked") == len(cases)
