"""The CUDA kernels without a GPU: compiled for real, and run on an emulation of one.

What needs a device is checked and timed by ``python3 -m tests.gpu.run`` on a GPU host.
"""

import concurrent.futures
import os
import subprocess
import time

import numpy as np
import pytest

from model.embedding.optimizers import OPTIMIZERS
from tests.gpu import build, embedding_checks, interaction_checks, launchers, memory, reference

# In every run the oldest and the one with instructions of its own; the others are slow tests.
ALWAYS = ("80", "90")
ARCHITECTURES = [
    pytest.param(a, marks=[] if a in ALWAYS else pytest.mark.slow) for a in build.generations()
]

needs_nvcc = pytest.mark.skipif(
    build.nvcc() is None, reason="nvcc was not found: the CUDA kernels are neither compiled nor run"
)


def test_one_of_several_builders_makes_a_file_and_none_sees_half_of_it(tmp_path):
    makers = []

    def make(path):
        makers.append(path)
        path.write_text("half")
        time.sleep(0.2)
        path.write_text("the whole file")

    def ask(_):
        return build.made(tmp_path / "folder" / "library.so", make).read_text()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == ["the whole file"] * 4
    assert len(makers) == 1


def test_a_file_whose_making_failed_is_made_by_the_next(tmp_path):
    def fail(path):
        path.write_text("half")
        raise build.BuildError("refused")

    with pytest.raises(build.BuildError, match="refused"):
        build.made(tmp_path / "library.so", fail)
    target = build.made(tmp_path / "library.so", lambda path: path.write_text("whole"))
    assert target.read_text() == "whole"


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_warnings_or_spills(architecture):
    newest = architecture == build.generations()[-1]
    objects, report = build.compile_objects(architecture, jobs=2, ptx=newest)
    assert len(objects) == len(build.sources()) > 0
    own = [line for line in report.splitlines() if "Compiling entry function" in line]
    assert any("forward_kernel" in line for line in own), "the compiler's report is not understood"
    assert build.spilled_kernels(report) == []
    print(f"{len(objects)} CUDA files compiled for sm_{architecture}; compiled, NOT run: no GPU")


@needs_nvcc
def test_tensor_core_and_wide_access_instructions():
    """Reads the generated PTX for the instructions that the design rests on."""
    text = build.ptx("90")
    for instruction in (
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
        "cp.async.cg.shared.global",
        "red.global.add.v4.f32",
        "ld.global.nc.v4.f32",
    ):
        assert instruction in text, f"{instruction} is not in the compiled kernels"


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(build.OPS.glob("*/*gpu.cc")), ids=lambda path: path.name)
def test_tensorflow_gpu_kernels_compile(source):
    """TensorFlow's headers are the same for CPUs and GPUs; CUDA's come with nvcc."""
    include = build.cuda_include()
    if include is None:
        pytest.skip("CUDA's headers were not found: the GPU kernels are not compiled")
    import tensorflow as tf

    flags = [f for f in tf.sysconfig.get_compile_flags() if not f.startswith(("-std", "-I"))]
    command = [
        os.environ.get("CXX", "g++"), "-fsyntax-only", "-std=c++17", "-Wall", "-Wextra",
        "-Wno-unused-parameter", "-Werror", "-DGOOGLE_CUDA=1", *flags, f"-I{build.OPS}",
        "-isystem", tf.sysconfig.get_include(), "-isystem", str(include), str(source),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def emulated():
    """The kernels compiled for the CPU, and the memory they run on."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the CUDA kernels are not run, even emulated")
    return launchers.Library(build.build_emulation()), memory.HostMemory()


def _names(module):
    return [name for name, _ in module.checks(None, None, large=False)]


@pytest.mark.parametrize("name", _names(interaction_checks))
def test_dot_interaction_emulated(emulated, name):
    check = dict(interaction_checks.checks(*emulated, large=False))[name]
    cases, worst = check(np.random.default_rng())
    assert cases > 0 and worst <= 1


@pytest.mark.parametrize("name", _names(embedding_checks))
def test_embedding_emulated(emulated, name):
    check = dict(embedding_checks.checks(*emulated, large=False))[name]
    cases, worst = check(np.random.default_rng())
    assert cases > 0 and worst <= 1


def test_shapes_choose_the_tensor_core_kernel(emulated):
    library, _ = emulated
    for features, dim, dtype, fast in (
        (27, 128, launchers.FLOAT16, True),
        (32, 256, launchers.FLOAT32, True),
        (33, 128, launchers.FLOAT16, False),
        (27, 4, launchers.FLOAT32, True),
        (27, 4, launchers.BFLOAT16, False),
        (27, 264, launchers.FLOAT16, False),
    ):
        shape = launchers.InteractionShape(1, features, dim, dtype, launchers.ACCURATE)
        assert library.is_fast(shape) == fast, (features, dim, dtype)


def test_float32_sums_survive_the_tensor_cores_rounding(emulated):
    """Root mean square, where a wrong order of sums shows and single elements do not decide."""
    library, device = emulated
    batch, features, dim = 16, 27, 256
    x = np.random.default_rng().standard_normal((batch, features, dim)).astype(np.float32)
    shape = launchers.InteractionShape(batch, features, dim, launchers.FLOAT32, launchers.ACCURATE)
    width = library.width(features, dim)
    rows, output = device.upload(x), device.empty(batch * width, np.float32)
    library.dot_interaction_forward(
        shape,
        launchers.FeatureRows.of_one_tensor(rows.pointer, features, dim, 4),
        output.pointer,
        device.stream,
    )
    expected, magnitude = reference.interaction(x.astype(np.float64))
    pairs = slice(dim, dim + features * (features - 1) // 2)
    error = (output.download().reshape(batch, width) - expected)[:, pairs]
    # One sum for the large and the small products gives 4, scalar arithmetic 0.5.
    assert np.sqrt((error**2).mean()) <= 2.0 * 2.0**-24 * magnitude[:, pairs].mean()


@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
@pytest.mark.parametrize("mode", [launchers.ACCURATE, launchers.SCALAR])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_emulated_interaction_keeps_what_is_not_finite(emulated, value, mode, dtype):
    """It reaches every pair of its vector, and no other: sample b has it in vector b."""
    library, device = emulated
    rng = np.random.default_rng()
    for features, dim in ((2, 8), (27, 128), (5, 7)):
        x = rng.standard_normal((features, features, dim)).astype(np.float32)
        rows = np.arange(features)
        x[rows, rows, rng.integers(dim, size=features)] = value
        shape = launchers.InteractionShape(features, features, dim, dtype, mode)
        width = library.width(features, dim)
        stored = reference.to_storage(x, dtype)
        inputs, output = device.upload(stored), device.empty(features * width, stored.dtype)
        rows_of_inputs = launchers.FeatureRows.of_one_tensor(
            inputs.pointer, features, dim, launchers.ELEMENT_BYTES[dtype]
        )
        library.dot_interaction_forward(shape, rows_of_inputs, output.pointer, device.stream)
        y = reference.from_storage(output.download().reshape(features, width), dtype)
        i, j = np.tril_indices(features, -1)
        hit = (i == rows[:, None]) | (j == rows[:, None])
        np.testing.assert_array_equal(y[:, :dim], reference.from_storage(stored[:, 0], dtype))
        np.testing.assert_array_equal(~np.isfinite(y[:, dim : dim + len(i)]), hit)
        np.testing.assert_array_equal(y[:, dim + len(i) :], 0)


def test_impossible_arguments_are_refused(emulated):
    library, device = emulated
    bad = launchers.InteractionShape(1, 0, 128, launchers.FLOAT32, launchers.ACCURATE)
    with pytest.raises(launchers.CudaError, match="dot_interaction_forward returned CUDA error 1"):
        library.dot_interaction_forward(bad, launchers.FeatureRows(), None, device.stream)
    problem = embedding_checks.Problem(
        library, device, np.random.default_rng(), 4, [7], 8, launchers.FLOAT32, np.int64
    )
    rule = library.rule("sgd", 0.1)
    rule.optimizer = len(OPTIMIZERS)
    size = library.workspace_bytes(problem.description, rule)
    rows, workspace = device.upload(problem.rows), device.empty(size, np.uint8)
    update = (problem.device_gradients.pointer, rows.pointer, workspace.pointer)
    with pytest.raises(launchers.CudaError, match="embedding_update returned CUDA error 1"):
        library.embedding_update(problem.description, rule, *update, size, device.stream)
    rule.optimizer = 0
    with pytest.raises(launchers.CudaError, match="embedding_update returned CUDA error 1"):
        library.embedding_update(problem.description, rule, *update, size - 1, device.stream)
    problem.description.row_type = launchers.FLOAT16
    with pytest.raises(launchers.CudaError, match="embedding_update returned CUDA error 1"):
        library.embedding_update(problem.description, rule, *update, size, device.stream)
    problem.close()
    with pytest.raises(launchers.CudaError, match="embedding_initialize returned CUDA error 1"):
        library.embedding_initialize(None, 0, 1, 0, 1, 0, 0, 1.0, device.stream)


@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_emulated_updates_equal_the_cpu_op(emulated, name, dtype):
    """One model trained on either device holds the same bits (states per row aside)."""
    tf = pytest.importorskip("tensorflow")
    from ops import loader
    from ops.embedding import RowIds, RowRule, embedding_update

    if not loader.is_built():
        pytest.skip("the op library is not built")
    optimizer, (library, device) = OPTIMIZERS[name], emulated
    options = [0.01 * (k + 1) for k in range(len(optimizer.rule_values))]
    rng = np.random.default_rng()
    problem = embedding_checks.Problem(
        library, device, rng, 40, [1000, 3, 1, 40], 128, dtype, np.int64, "zipf"
    )
    gradients = tf.constant(problem.gradients)
    if dtype == launchers.BFLOAT16:
        gradients = tf.bitcast(gradients, tf.bfloat16)
    states = [
        rng.uniform(0.1, 1, state.shape(*problem.rows.shape)).astype(np.float32)
        for state in optimizer.states
    ]
    table, variables = tf.Variable(problem.rows), [tf.Variable(state) for state in states]
    where = RowIds(problem.ids, problem.base, problem.sizes)
    embedding_update(table, variables, where, gradients, 0.7, 0.3, RowRule(name, tuple(options)))
    rows, buffers = device.upload(problem.rows), [device.upload(state) for state in states]
    problem.update(name, rows, 0.7, 0.3, options, buffers)
    found, expected = [rows, *buffers], [table, *variables]
    for buffer, variable in zip(found, expected):
        if optimizer.per_row_states:
            np.testing.assert_allclose(buffer.download(), variable.numpy(), rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(buffer.download(), variable.numpy())
    problem.close()


def test_emulated_initialisation_equals_the_cpu_op(emulated):
    tf = pytest.importorskip("tensorflow")
    from ops import loader

    if not loader.is_built():
        pytest.skip("the op library is not built")
    library, device = emulated
    table, rows = tf.Variable(tf.zeros((50, 131))), device.empty(40 * 131, np.float32)
    seed = int(np.random.default_rng().integers(-(2**62), 2**62))
    loader.load().dlrm_embedding_initialize(
        table=table.handle, base_row=3, rows=40, table_index=7, seed=seed, first_row=5,
        row_stride=8, limit=0.37,
    )  # fmt: skip
    library.embedding_initialize(rows.pointer, 131, 40, 5, 8, 7, seed, 0.37, device.stream)
    np.testing.assert_array_equal(rows.download().reshape(40, 131), table.numpy()[3:43])


def test_philox_known_answers():
    """The reference itself, against Random123's published vectors."""
    counter = np.array([[0, 0, 0, 0], [0xFFFFFFFF] * 4], np.uint32)
    first = reference.philox(counter[:1], (0, 0))[0]
    assert [hex(word) for word in first] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    last = reference.philox(counter[1:], (0xFFFFFFFF, 0xFFFFFFFF))[0]
    assert [hex(word) for word in last] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]
