"""The CPU kernels alone, for each instruction set of this processor, without TensorFlow.

`make sanitize` runs the sanitized build.
"""

import subprocess

import pytest

from tests.support import launch


@pytest.mark.parametrize(
    "sanitizers", ["", pytest.param("address,undefined", marks=pytest.mark.slow)]
)
def test_kernels_agree_between_instruction_sets(sanitizers, tmp_path, seed):
    def run(*command):
        result = subprocess.run(command, capture_output=True, text=True, cwd=launch.ROOT)
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
        return result.stdout

    run("cmake", "-S", "tests/native", "-B", tmp_path, f"-DDLRM_SANITIZE={sanitizers}")
    run("cmake", "--build", tmp_path)
    assert "values correct" in run(tmp_path / "kernels_test", str(seed))
    assert "passed" in run(tmp_path / "preprocessing_test", str(seed))
