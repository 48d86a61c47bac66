"""Checkpoints of a release whose dense optimizers were Keras': data/README.md."""

import tarfile

from tests.support.paths import ROOT

DATA = ROOT / "tests/support/training/checkpoint/data"
VOCAB = (5, 3)
# The flags of the run that wrote them, except --optimizer and --early_stop.
FLAGS = (
    "--use_synthetic_dataset", "--vocab_sizes=5,3", "--embedding_dim=2", "--bottom_mlp=4,2",
    "--top_mlp=3,1", "--global_batch_size=8", "--lr=0.1", "--warmup_steps=1",
    "--decay_start_step=0", "--seed=3",
)  # fmt: skip


def unpack(optimizer, target):
    """Unpacks an optimizer's checkpoints into a new folder; returns (of step 3, of step 6)."""
    # Pythons before 3.11.4 may not have the filter that later ones require.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(DATA / f"keras_2.15_{optimizer}.tar.gz") as archive:
        archive.extractall(target, **options)
    return target / "step-000000003", target / "step-000000006"
