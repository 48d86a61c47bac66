"""The ranks of a job and their collectives: one process, or several under Horovod."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
        place: this process's place in the job; None to read it from the environment.

    Raises:
        UserError: several ranks were started but Horovod is missing or does not see them.
    """
    place = launcher.read() if place is None else place
    if place.size == 1:
        return SingleProcessGroup()
    # In ms. A collective should start when it is ready, not at the next tick of the default 1 ms.
    os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.1")
    try:
        # Horovod does not import without Keras.
        with quick_imports(without=("pandas",)):
            import horovod.tensorflow as hvd
    except ImportError as error:
        text = f"{place.size} ranks were started, but importing Horovod failed: {error}"
        raise UserError(text) from error
    if not hvd.mpi_built():
        _check_gloo(place)
    hvd.init()
    if (hvd.rank(), hvd.size()) != (place.rank, place.size):
        raise UserError(
            f"{place.shown} ({place.launcher}), but Horovod found rank {hvd.rank()} of "
            f"{hvd.size()}: start the job with horovodrun, or build Horovod for this launcher "
            "(horovodrun --check-build prints what it supports)"
        )
    return HorovodProcessGroup(hvd)


def _check_gloo(place: launcher.Place) -> None:
    """Raises UserError if a Horovod without MPI cannot connect these ranks.

    Gloo needs the variables that horovodrun sets. Without them Horovod would abort or run a
    separate job on each rank.
    """
    advice = f"start the job with horovodrun -np {place.size} ./hvd_wrapper.sh python3 main.py ..."
    if place.launcher != "horovodrun":
        raise UserError(
            f"{place.shown}: {place.launcher} started {place.size} ranks, but this Horovod is "
            f"built without MPI and cannot connect them: {advice} (-H names other hosts), or build "
            "Horovod with HOROVOD_WITH_MPI=1; set HOROVOD_RANK=0 HOROVOD_SIZE=1 to run one process"
        )
    for name in ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"):
        if not os.environ.get(name):
            raise UserError(f"{place.shown} without {name}: {advice}", field=name)


class ProcessGroup(Protocol):
    """The ranks of a job: `SingleProcessGroup` or `HorovodProcessGroup`.

    Attributes:
        rank, size: this rank and the number of ranks N.
        local_rank, local_size: the same among the ranks of this host.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def alltoall(
        self, tensor: tf.Tensor, splits: tf.Tensor, name: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sends rows to every rank; returns the received rows, in rank order, and their counts.

        Args:
            tensor: [n, ...].
            splits: [N] int32, the number of rows for each rank; the sum is n.
            name: name of the operation, equal on all ranks and unique within a step.

        Returns:
            ([m, ...], [N] int32): the received rows, and how many came from each rank.
        """
        ...

    def all_reduce_mean(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Returns the element-wise means of the tensors over the ranks."""
        ...

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Assigns the values of rank 0 to the variables of all ranks."""
        ...

    def all_reduce_sum(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns the element-wise sum over the ranks, in the dtype of `values`."""
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
        """Returns (tensor, splits)."""
        return tensor, splits

    def all_reduce_mean(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Returns the tensors."""
        return list(tensors)

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Does nothing."""

    def all_reduce_sum(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns the values as an array."""
        return np.asarray(values)

    def gather(self, value: float) -> list[float]:
        """Returns [value]."""
        return [value]

    def alltoallv(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Returns parts[0]."""
        return parts[0]

    def shutdown(self) -> None:
        """Does nothing."""


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
        """See `ProcessGroup.alltoall`. Horovod has no bfloat16: its bits travel as float16."""
        dtype = tensor.dtype
        if dtype == tf.bfloat16:
            tensor = tf.bitcast(tensor, tf.float16)
        # TensorFlow does not know that Horovod's alltoall has a side effect. On a rank without
        # tables, a graph would prune an exchange whose result is unused (gradients) and fold one
        # whose input is constant (no rows), and the other ranks would wait forever. Adding a
        # variable makes the input non-constant; assigning the result keeps the operation. All of it
        # is on the host, also if the exchange is on a GPU.
        with tf.device("CPU:0"):
            splits = splits + self._zero.read_value()
        received, counts = self._hvd.alltoall(tensor, splits=splits, name=name)
        size = tf.size(received, tf.int64)
        with tf.device("CPU:0"):
            self._received.assign(size)
        if dtype == tf.bfloat16:
            received = tf.bitcast(received, dtype)
        return received, counts

    def all_reduce_mean(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Returns the means of the tensors over the ranks, from one grouped allreduce."""
        return self._hvd.grouped_allreduce(list(tensors), name=name, op=self._hvd.Average)

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Assigns the values of rank 0 to the variables of all ranks."""
        self._hvd.broadcast_variables(variables, root_rank=0)

    def all_reduce_sum(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns the element-wise sum over the ranks, in the dtype of `values`."""
        array = np.asarray(values)
        total = self._hvd.allreduce(tf.constant(array), name=self._name("sum"), op=self._hvd.Sum)
        return total.numpy()

    def gather(self, value: float) -> list[float]:
        """Returns every rank's float64 value, in rank order."""
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
        # All ranks make the same calls in the same order: a counter gives them equal names.
        self._calls += 1
        return f"dlrm_{kind}_{self._calls}"
