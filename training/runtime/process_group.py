"""The ranks of a job: one process, or many under Horovod.

A one-rank job needs no Horovod. With several, exchanges go through `horovod.tensorflow`, and the
names of its operations are given here so that they agree on all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.runtime import launcher
from training.runtime.environment import quick_imports
from training.runtime.errors import UserError


def connect(place: launcher.Place | None = None) -> ProcessGroup:
    """Returns a `SingleProcessGroup`, or under a launcher a `HorovodProcessGroup`.

    Args:
        place: this process's place in the job; None: read from the environment.

    Raises:
        UserError: several ranks were started but Horovod is missing or does not see them.
    """
    place = launcher.read() if place is None else place
    if place.size == 1:
        return SingleProcessGroup()
    # Small cycles: an exchange should start when it is ready, not at the next 1 ms tick.
    os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.1")
    try:
        # Horovod's releases cannot be imported without Keras.
        with quick_imports(without=("pandas",)):
            import horovod.tensorflow as hvd
    except ImportError as error:
        raise UserError(
            f"{place.size} ranks were started but Horovod does not import: {error}"
        ) from error
    if not hvd.mpi_built():
        _check_gloo(place)
    hvd.init()
    if (hvd.rank(), hvd.size()) != (place.rank, place.size):
        raise UserError(
            f"{place.shown} ({place.launcher}), but Horovod sees rank {hvd.rank()} of "
            f"{hvd.size()}: expected the same; start with horovodrun, which both understand "
            "(horovodrun --check-build lists what this Horovod was built with)"
        )
    return HorovodProcessGroup(hvd)


def _check_gloo(place: launcher.Place, environment: Mapping[str, str] = os.environ) -> None:
    """Raises UserError where Horovod with Gloo alone could not connect these ranks.

    It reads what horovodrun sets, and where that is missing it ends the process or runs alone.
    """
    advice = f"start with horovodrun -np {place.size} ./hvd_wrapper.sh python3 main.py ..."
    if place.launcher != "horovodrun":
        raise UserError(
            f"{place.shown}: {place.launcher} started {place.size} ranks, but this Horovod was "
            f"built without MPI and does not see them: {advice} (-H names other hosts), or build "
            "Horovod with HOROVOD_WITH_MPI=1; one process alone takes HOROVOD_RANK=0 HOROVOD_SIZE=1"
        )
    for name in ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"):
        if not environment.get(name):
            raise UserError(f"{place.shown} without {name}: {advice}, which sets it")


class ProcessGroup(Protocol):
    """The ranks of a job: `SingleProcessGroup` or `HorovodProcessGroup`.

    Attributes:
        rank, size: this rank's number and how many there are.
        local_rank, local_size: the same on this host.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def alltoall(
        self, tensor: tf.Tensor, splits: tf.Tensor, name: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sends rows to every rank; returns the rows received, in rank order, and their counts.

        Args:
            tensor: [n, ...].
            splits: [N] int32, how many rows go to each rank; their sum is n.
            name: the operation's name, the same on all ranks and unique within a step.
        """
        ...

    def all_reduce_mean(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Returns the tensors averaged over the ranks."""
        ...

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Sets the values of rank 0 on all ranks."""
        ...

    def all_reduce_sum(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns the element-wise sum over ranks (int64 or float64)."""
        ...

    def gather(self, value: float) -> list[float]:
        """Returns every rank's float64 value, in rank order."""
        ...

    def alltoallv(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Sends the 1-D array parts[k] to rank k; returns those received, joined in rank order."""
        ...

    def shutdown(self) -> None:
        """Leaves the job."""
        ...


class SingleProcessGroup:
    """A job of one rank: every collective is the identity."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def alltoall(
        self, tensor: tf.Tensor, splits: tf.Tensor, name: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (tensor, splits): all rows are for this rank."""
        return tensor, splits

    def all_reduce_mean(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Returns the tensors themselves."""
        return list(tensors)

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Changes nothing."""

    def all_reduce_sum(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns a NumPy array of the values."""
        return np.asarray(values)

    def gather(self, value: float) -> list[float]:
        """Returns [value]."""
        return [value]

    def alltoallv(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Returns parts[0]."""
        return parts[0]

    def shutdown(self) -> None:
        """Has nothing to shut down."""


class HorovodProcessGroup:
    """The ranks of a Horovod job.

    Args:
        hvd: the initialised module `horovod.tensorflow`.
    """

    def __init__(self, hvd: ModuleType):
        self._hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self._calls = 0
        with tf.device("CPU:0"):
            self._zero = tf.Variable(tf.zeros([], tf.int32), trainable=False, name="zero")
            self._received = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="received")

    def alltoall(
        self, tensor: tf.Tensor, splits: tf.Tensor, name: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sends rows to every rank; returns the rows received, in rank order, and their counts.

        Args:
            tensor: [n, ...]; bfloat16 travels as the bits of float16, which Horovod knows.
            splits: [N] int32, how many rows go to each rank; their sum is n.
            name: the operation's name, the same on all ranks and unique within a step.

        Returns:
            ([m, ...], [N] int32): rows received, and how many came from each rank.
        """
        dtype = tensor.dtype
        if dtype == tf.bfloat16:
            tensor = tf.bitcast(tensor, tf.float16)
        # TensorFlow does not know that an exchange of Horovod has an effect. On a rank without
        # tables, a graph would prune exchanges with unused results, such as gradients, and fold
        # constant ones, such as those of no rows; the other ranks would wait for ever. A
        # variable's value is not constant, and an assigned value is not pruned.
        splits = splits + self._zero
        received, counts = self._hvd.alltoall(tensor, splits=splits, name=name)
        self._received.assign(tf.size(received, tf.int64))
        if dtype == tf.bfloat16:
            received = tf.bitcast(received, dtype)
        return received, counts

    def all_reduce_mean(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Returns the tensors averaged over the ranks, in one grouped allreduce."""
        return self._hvd.grouped_allreduce(list(tensors), name=name, op=self._hvd.Average)

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Sets the values of rank 0 on all ranks."""
        self._hvd.broadcast_variables(variables, root_rank=0)

    def all_reduce_sum(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns the element-wise sum over ranks as a NumPy array (int64 or float64)."""
        array = np.asarray(values)
        total = self._hvd.allreduce(tf.constant(array), name=self._name("sum"), op=self._hvd.Sum)
        return total.numpy()

    def gather(self, value: float) -> list[float]:
        """Returns a list with every rank's float64 value, in rank order."""
        local = tf.constant([value], tf.float64)
        return list(self._hvd.allgather(local, name=self._name("gather")).numpy())

    def alltoallv(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Sends the 1-D array parts[k] to rank k; returns those received, joined in rank order."""
        splits = tf.constant([len(part) for part in parts], tf.int32)
        joined = tf.constant(np.concatenate(parts))
        received, _ = self._hvd.alltoall(joined, splits=splits, name=self._name("exchange"))
        return received.numpy()

    def shutdown(self) -> None:
        """Leaves the job."""
        self._hvd.shutdown()

    def _name(self, kind: str) -> str:
        # All ranks make the same calls in the same order, so a counter gives equal names.
        self._calls += 1
        return f"dlrm_{kind}_{self._calls}"
