"""The phases by which a batch reaches a GPU: uploaded during the previous step, then received.

The package of a batch is its only copy from host to GPU. Learning rate and votes, which are known
only when the step starts, follow as arguments of a kernel.
"""

from __future__ import annotations

import tensorflow as tf

from model.embedding.interface import ExchangePlan
from ops.upload import receive, upload
from ops.upload.scalars import scalars_on_device
from training import phases
from training.phases import HOST, Phase

# The fields of a plan that are read on the GPU. Splits stay on the host.
_FIELDS = (
    "ids", "local_ids", "touched_rows", "permutation", "inverse_permutation", "offsets",
    "bag_segments", "vector_segments", "counts", "divisors",
)  # fmt: skip


def upload_phases(device: str, ranks: int) -> tuple[Phase, Phase]:
    """Returns the phase that uploads a batch and the phase that receives it.

    Args:
        device: name of the GPU.
        ranks: number of ranks. On several, votes are sent to the GPU, too.
    """
    batch = _UploadedBatch(votes_on_device=ranks > 1)
    return (
        Phase(
            phases.UPLOAD,
            batch.send,
            ("dense", "label", "plan"),
            ("package", "dims"),
            device=device,
        ),
        Phase(
            phases.RECEIVE,
            batch.receive,
            ("package", "dims", "plan", "learning_rate", "local_votes"),
            ("dense", "label", "plan", "learning_rate", "local_votes"),
            device=device,
        ),
    )


class _UploadedBatch:
    """The tensors of a batch in one package; all batches have the same types and shapes."""

    def __init__(self, *, votes_on_device: bool):
        self._votes_on_device = votes_on_device
        # Types and shapes of the package's tensors. A package contains only their sizes.
        self._layout: list[tf.TensorSpec] = []

    def send(
        self, dense: tf.Tensor, label: tf.Tensor, plan: ExchangePlan
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (package, dims) of a batch; see `ops.upload.upload`."""
        tensors = [dense, label, *(getattr(plan, name) for name in _FIELDS)]
        self._layout = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        return upload(tensors)

    def receive(
        self,
        package: tf.Tensor,
        dims: tf.Tensor,
        plan: ExchangePlan,
        learning_rate: tf.Tensor,
        local_votes: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, ExchangePlan, tf.Tensor, tf.Tensor]:
        """Returns (dense, label, plan, learning_rate, local_votes) in the GPU's memory.

        Must be traced after `send`.
        """
        dtypes, shapes = zip(*((spec.dtype, spec.shape) for spec in self._layout))
        dense, label, *fields = receive(package, dims, dtypes, shapes)
        plan = plan._replace(**dict(zip(_FIELDS, fields)))
        with tf.device(HOST):
            scalars = tf.expand_dims(learning_rate, 0)
            if self._votes_on_device:
                scalars = tf.concat([scalars, local_votes], 0)
        scalars = scalars_on_device(scalars)
        votes = scalars[1:] if self._votes_on_device else local_votes
        return dense, label, plan, scalars[0], votes
