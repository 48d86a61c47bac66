"""Which GPU a rank takes, and what is said where ranks share one or TensorFlow uses none."""

import ctypes
import os
import types
import uuid

import pytest
import tensorflow as tf

from tests.support.thread_ranks import ThreadRanks
from training.runtime import gpus
from training.runtime.errors import UserError
from training.runtime.gpus import Device

DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-8cb4a8a2-2c2e-4f4c-8d3c-3a1d1b1f7a11)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine to be made up: .tool(text) puts an nvidia-smi, .gpus(n) has TensorFlow see some."""
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    (tmp_path / "tools").mkdir()
    chosen = {"visible": None, "growth": []}

    def tool(text, code=0):
        path = tmp_path / "tools" / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{text}END\nexit {code}\n")
        path.chmod(0o755)

    def see(count, cuda=True):
        devices = [
            types.SimpleNamespace(name=f"/physical_device:GPU:{i}", device_type="GPU")
            for i in range(count)
        ]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices)
        monkeypatch.setattr(
            tf.config, "set_visible_devices", lambda one, kind: chosen.update(visible=one)
        )
        monkeypatch.setattr(
            tf.config, "get_visible_devices",
            lambda kind: devices[:1] if chosen["visible"] is None else [chosen["visible"]],
        )  # fmt: skip
        monkeypatch.setattr(
            tf.config.experimental, "set_memory_growth",
            lambda one, grows: chosen["growth"].append((one.name, grows)),
        )  # fmt: skip
        monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda)

    return types.SimpleNamespace(tool=tool, gpus=see, chosen=chosen, env=monkeypatch)


def test_listed_counts_instances_in_place_of_their_gpu(machine):
    assert gpus.listed() == []
    machine.tool(DIVIDED)
    assert gpus.listed() == [
        "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", "1"
    ]  # fmt: skip
    machine.tool("NVIDIA-SMI has failed\n", code=9)
    assert gpus.listed() == []


@pytest.mark.parametrize(("seen", "local_rank", "ordinal"), [(1, 0, 0), (1, 1, 0), (3, 2, 2)])
def test_choose_takes_the_gpu_of_the_local_rank(machine, seen, local_rank, ordinal):
    machine.gpus(seen)
    machine.env.setenv(gpus.VARIABLE, ",".join(map(str, range(4, 4 + seen))))
    assert gpus.choose(local_rank) == Device(ordinal, str(4 + ordinal))
    assert machine.chosen["growth"] == [(f"/physical_device:GPU:{ordinal}", True)]
    if seen > 1:
        assert machine.chosen["visible"].name == f"/physical_device:GPU:{ordinal}"


def test_choose_without_gpus_is_the_cpu(machine):
    machine.gpus(0)
    assert gpus.choose(1) == Device(None)


class FakeDriver:
    """CUDA's driver, of devices whose UUIDs end in their number plus 16."""

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
def test_a_device_is_known_by_its_uuid(machine, devices, expected):
    machine.gpus(2)
    machine.env.setenv(gpus.VARIABLE, "MIG-a, MIG-b")
    machine.env.setattr(ctypes, "CDLL", lambda name: FakeDriver(devices))
    assert gpus.choose(1).identity == expected


def check(*devices):
    """Checks ranks that have these devices; returns each rank's error, or None."""

    def run(cluster):
        try:
            gpus.check(cluster, devices[cluster.rank])
        except UserError as error:
            return str(error)
        return None

    return ThreadRanks(len(devices)).run(run)


def test_check_lets_ranks_with_gpus_of_their_own_pass(machine):
    assert check(*(Device(0, f"GPU-{i}") for i in range(3))) == [None] * 3
    assert check(Device(0, "0"), Device(1, "1")) == [None] * 2
    assert check(*[Device(None)] * 3) == [None] * 3


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        ("5", ["CUDA_VISIBLE_DEVICES=5 shows 1 device to 1 local ranks", "unset CUDA_VISIBLE_"]),
        ("5,6", ["CUDA_VISIBLE_DEVICES=5,6 shows 2 devices to 1 local ranks"]),
        (None, ["CUDA_VISIBLE_DEVICES is not set", "start them with ./hvd_wrapper.sh"]),
    ],
)
def test_check_names_ranks_that_share_a_gpu(machine, visible, words):
    if visible is not None:
        machine.env.setenv(gpus.VARIABLE, visible)
    for identity in ("GPU-5", "5"):
        errors = check(Device(0, "GPU-7"), Device(0, identity), Device(0, identity))
        assert len(set(errors)) == 1
        who = f"ranks 1 and 2 on {os.uname().nodename} would share one GPU ({identity}): "
        assert errors[0].startswith(who)
        assert all(word in errors[0] for word in words)


@pytest.mark.parametrize("without", [0, 1])
def test_check_refuses_some_ranks_on_the_cpu(machine, without):
    devices = [Device(0, "GPU-7"), Device(0, "GPU-8")]
    devices[without] = Device(None)
    errors = check(*devices)
    assert errors[0] == errors[1]
    assert errors[0].startswith(f"rank {without} on ")
    assert f"rank {1 - without} on " in errors[0]
    assert errors[0].endswith("expected GPUs for all ranks or for none")


@pytest.mark.parametrize(
    ("cuda", "visible", "reason"),
    [
        (False, None, "it is built for the CPU alone"),
        (False, "0", "it is built for the CPU alone"),
        (True, None, "a CUDA library or the driver does not load"),
        (True, "7", "CUDA_VISIBLE_DEVICES=7 names no device of this host, or a CUDA library"),
    ],
)
def test_a_gpu_that_tensorflow_does_not_use_is_one_line(machine, cuda, visible, reason):
    machine.gpus(0, cuda)
    machine.tool("GPU 0: NVIDIA H200 (UUID: GPU-0)\n")
    if visible is not None:
        machine.env.setenv(gpus.VARIABLE, visible)
    said = gpus.unused(Device(None))
    assert said.startswith(
        f"this host has a GPU (nvidia-smi lists 1 device), but TensorFlow uses none: {reason}"
    )
    assert said.endswith("runs on the CPU; CUDA_VISIBLE_DEVICES=-1 says that this is wanted")
    assert "\n" not in said


@pytest.mark.parametrize("value", ["", "-1", " ", "NoDevFiles"])
def test_a_cpu_that_is_wanted_is_no_warning(machine, value):
    machine.gpus(0)
    machine.tool("GPU 0: NVIDIA H200 (UUID: GPU-0)\n")
    machine.env.setenv(gpus.VARIABLE, value)
    assert gpus.unused(Device(None)) is None


def test_a_gpu_in_use_is_no_warning(machine):
    machine.tool("GPU 0: NVIDIA H200 (UUID: GPU-0)\n")
    assert gpus.unused(Device(0, "GPU-0")) is None


def test_on_host_finds_a_gpu_without_nvidia_smi(machine, tmp_path):
    assert gpus.on_host(tmp_path) is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert gpus.on_host(tmp_path) is None
    (tmp_path / "dev" / "nvidia0").touch()
    assert gpus.on_host(tmp_path) == f"there is {tmp_path}/dev/nvidia0"
    (tmp_path / "proc/driver/nvidia/gpus/0000:1e:00.0").mkdir(parents=True)
    assert gpus.on_host(tmp_path).endswith("/proc/driver/nvidia/gpus/0000:1e:00.0")


def test_free_memory_is_that_of_the_chosen_gpu(machine, tmp_path):
    machine.gpus(2)
    machine.chosen["visible"] = types.SimpleNamespace(name="/physical_device:GPU:1")
    machine.env.setenv(gpus.VARIABLE, "GPU-a,GPU-b")
    path = tmp_path / "tools" / "nvidia-smi"
    path.write_text('#!/bin/sh\nfor last; do :; done\n[ "$last" = GPU-b ] && echo 1024\n')
    path.chmod(0o755)
    assert gpus.free_memory() == 1 << 30
    machine.tool("[N/A]\n")
    assert gpus.free_memory() is None
