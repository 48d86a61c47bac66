"""Selection of a GPU per rank, and the reports about shared and unused GPUs."""

import ctypes
import os
import subprocess
import types
import uuid

import pytest
import tensorflow as tf

from ops import loader
from tests.support.thread_ranks import ThreadRanks
from training.runtime import gpus
from training.runtime.errors import UserError
from training.runtime.gpus import Device

PARTITIONED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-8cb4a8a2-2c2e-4f4c-8d3c-3a1d1b1f7a11)
"""
ONE_GPU = "GPU 0: NVIDIA H200 (UUID: GPU-0)\n"


@pytest.fixture
def machine(monkeypatch):
    """A simulated machine: .nvidia_smi(answer) installs the tool, .gpus(n) the GPUs of TensorFlow.

    Until `nvidia_smi` is called, the tool is missing. `tests/e2e/test_hvd_wrapper.py` runs a real
    stand-in.
    """
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    chosen = {}

    def nvidia_smi(answer):
        def run(command, **options):
            text = answer(command) if callable(answer) else answer
            if isinstance(text, Exception):
                raise text
            return subprocess.CompletedProcess(command, 0, text)

        monkeypatch.setattr(gpus.subprocess, "run", run)

    nvidia_smi(FileNotFoundError("nvidia-smi"))

    def see(count, cuda=True):
        config = tf.config
        devices = [types.SimpleNamespace(name=f"/physical_device:GPU:{i}") for i in range(count)]
        chosen["visible"] = devices[:1]
        for owner, name, function in (
            (config, "list_physical_devices", lambda kind: devices),
            (config, "set_visible_devices", lambda one, kind: chosen.update(visible=[one])),
            (config, "get_visible_devices", lambda kind: chosen["visible"]),
            (config.experimental, "set_memory_growth", lambda *one: chosen.update(growth=one)),
            (tf.test, "is_built_with_cuda", lambda: cuda),
        ):
            monkeypatch.setattr(owner, name, function)

    return types.SimpleNamespace(nvidia_smi=nvidia_smi, gpus=see, chosen=chosen, env=monkeypatch)


def test_listed_has_mig_instances_instead_of_their_gpu(machine):
    assert gpus.listed() == []
    machine.nvidia_smi(PARTITIONED)
    assert gpus.listed() == [
        "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", "1"
    ]  # fmt: skip
    machine.nvidia_smi(subprocess.CalledProcessError(9, "nvidia-smi"))
    assert gpus.listed() == []


@pytest.mark.parametrize(("seen", "local_rank", "ordinal"), [(1, 0, 0), (1, 1, 0), (3, 2, 2)])
def test_choose_takes_the_gpu_of_the_local_rank(machine, seen, local_rank, ordinal):
    machine.gpus(seen)
    machine.env.setenv(gpus.VARIABLE, ",".join(map(str, range(4, 4 + seen))))
    assert gpus.choose(local_rank) == Device(ordinal, str(4 + ordinal))
    gpu, grows = machine.chosen["growth"]
    assert (gpu.name, grows) == (f"/physical_device:GPU:{ordinal}", True)
    assert machine.chosen["visible"] == [gpu]
    machine.gpus(0)
    assert gpus.choose(local_rank) == Device(None)


class FakeDriver:
    """The CUDA driver; the UUID of a device is its number plus 16."""

    def __init__(self, devices):
        self._devices = devices

    def cuInit(self, flags):
        return 0 if self._devices else 100

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = ordinal + 16
        return 0 if ordinal < self._devices else 101

    def cuDeviceGetUuid_v2(self, raw, device):
        raw.raw = uuid.UUID(int=device.value).bytes
        return 0


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(2, "GPU-00000000-0000-0000-0000-000000000011"), (1, "MIG-b"), (0, "MIG-b")],
)
def test_choose_identifies_a_device_by_its_uuid(machine, devices, expected):
    machine.gpus(2)
    machine.env.setenv(gpus.VARIABLE, "MIG-a, MIG-b")
    machine.env.setattr(ctypes, "CDLL", lambda name: FakeDriver(devices))
    assert gpus.choose(1).identity == expected


def check(*devices):
    """Calls `gpus.check` on ranks with these devices; returns each rank's error, or None."""

    def run(cluster):
        try:
            gpus.check(cluster, devices[cluster.rank])
        except UserError as error:
            return error
        return None

    return ThreadRanks(len(devices)).run(run)


def test_check_accepts_one_gpu_per_rank_or_none(machine):
    assert check(*(Device(0, f"GPU-{i}") for i in range(3))) == [None] * 3
    assert check(Device(0, "0"), Device(1, "1")) == [None] * 2
    assert check(*[Device(None)] * 3) == [None] * 3


@pytest.mark.parametrize(
    ("visible", "reason"),
    [
        ("5", "=5 shows 1 device to 1 local ranks"),
        ("5,6", "=5,6 shows 2 devices to 1 local ranks"),
        (None, "./hvd_wrapper.sh"),
    ],
)
def test_check_names_ranks_that_share_a_gpu(machine, visible, reason):
    if visible is not None:
        machine.env.setenv(gpus.VARIABLE, visible)
    for identity in ("GPU-5", "5"):
        errors = check(Device(0, "GPU-7"), Device(0, identity), Device(0, identity))
        assert len({str(error) for error in errors}) == 1
        assert errors[0].field == gpus.VARIABLE
        for word in ("ranks 1 and 2", os.uname().nodename, f"({identity})", reason):
            assert word in str(errors[0])


@pytest.mark.parametrize("without", [0, 1])
def test_check_refuses_some_ranks_on_the_cpu(machine, without):
    devices = [Device(0, "GPU-7"), Device(0, "GPU-8")]
    devices[without] = Device(None)
    first, second = check(*devices)
    assert str(first) == str(second)
    assert first.field == gpus.VARIABLE
    assert f"rank {without} on {os.uname().nodename} has none" in str(first)
    assert f"rank {1 - without} on " in str(first)


@pytest.mark.parametrize(
    ("cuda", "visible", "reason"),
    [
        (False, "0", "built for the CPU only"),
        (True, None, "TF_CPP_MIN_LOG_LEVEL=0"),
        (True, "7", "CUDA_VISIBLE_DEVICES=7"),
    ],
)
def test_unused_explains_an_unused_gpu_in_one_line(machine, cuda, visible, reason):
    machine.gpus(0, cuda)
    machine.nvidia_smi(ONE_GPU)
    if visible is not None:
        machine.env.setenv(gpus.VARIABLE, visible)
    line = gpus.unused(Device(None))
    assert "\n" not in line
    for word in ("nvidia-smi lists 1 device", reason, "CUDA_VISIBLE_DEVICES=-1"):
        assert word in line


@pytest.mark.parametrize(
    ("folder", "device", "command"),
    [
        (".venv", None, "rm -r .venv && make venv ops"),
        (".venv", "cpu", "rm -r .venv && DEVICE=gpu make venv ops"),
        (".venv-tf{tf}", None, "rm -r .venv-tf{tf} && TENSORFLOW={tf} make venv ops"),
        ("my env", None, "rm -r 'my env' && TENSORFLOW={tf} VENV='my env' make venv ops"),
    ],
)
def test_unused_prints_how_to_replace_an_environment_for_the_cpu(
    machine, tmp_path, folder, device, command
):
    machine.gpus(0, cuda=False)
    machine.nvidia_smi(ONE_GPU)
    machine.env.delenv("DEVICE", raising=False)
    if device:
        machine.env.setenv("DEVICE", device)
    environment = tmp_path / folder.format(tf=tf.__version__)
    environment.mkdir()
    machine.env.setattr(gpus, "_ROOT", str(tmp_path))
    machine.env.setattr("sys.prefix", str(environment))
    # Not an environment of make.
    assert f"install tensorflow[and-cuda]=={tf.__version__} instead" in gpus.unused(Device(None))
    (environment / ".device").write_text("cpu\n")
    line = gpus.unused(Device(None))
    assert f"run `{command.format(tf=tf.__version__)}`" in line and "\n" not in line


@pytest.mark.parametrize("value", ["", "-1", " ", "NoDevFiles"])
def test_unused_accepts_gpus_hidden_by_the_user(machine, value):
    machine.gpus(0)
    machine.nvidia_smi(ONE_GPU)
    assert gpus.unused(Device(None)) is not None
    assert gpus.unused(Device(0, "GPU-0")) is None
    machine.env.setenv(gpus.VARIABLE, value)
    assert gpus.unused(Device(None)) is None


def test_has_cuda_agrees_with_the_library_file():
    # `make test` on a GPU host has a library with CUDA kernels.
    assert loader.has_cuda() == (b".nv_fatbin" in loader.path().read_bytes())


def test_without_kernels_reports_a_library_for_the_cpu(machine):
    gpu = Device(0, "GPU-0")
    machine.env.setattr(loader, "has_cuda", lambda: False)
    line = gpus.without_kernels(gpu)
    assert str(loader.path()) in line and "CUDA_VISIBLE_DEVICES=-1" in line and "\n" not in line
    assert gpus.without_kernels(Device(None)) is None
    machine.env.setattr(loader, "has_cuda", lambda: True)
    assert gpus.without_kernels(gpu) is None

    def missing():
        raise loader.LibraryNotBuiltError("not built")

    machine.env.setattr(loader, "has_cuda", missing)
    assert gpus.without_kernels(gpu) is None


def test_on_host_finds_a_gpu_without_nvidia_smi(machine, tmp_path):
    assert gpus.on_host(tmp_path) is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert gpus.on_host(tmp_path) is None
    (tmp_path / "dev" / "nvidia0").touch()
    assert gpus.on_host(tmp_path) == f"there is {tmp_path}/dev/nvidia0"
    (tmp_path / "proc/driver/nvidia/gpus/0000:1e:00.0").mkdir(parents=True)
    assert gpus.on_host(tmp_path).endswith("/proc/driver/nvidia/gpus/0000:1e:00.0")


def test_free_memory_queries_the_visible_gpu(machine):
    machine.gpus(2)
    gpus.choose(1)
    machine.env.setenv(gpus.VARIABLE, "GPU-a,GPU-b")
    machine.nvidia_smi(lambda command: "1024\n" if command[-1] == "GPU-b" else "")
    assert gpus.free_memory() == 1 << 30
    machine.nvidia_smi("[N/A]\n")
    assert gpus.free_memory() is None
