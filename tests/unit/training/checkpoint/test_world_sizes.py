"""Any number of ranks, placement and backend reads the checkpoints of any other."""

import pytest

from model.embedding.optimizers import OPTIMIZERS
from tests.support.thread_ranks import ThreadRanks
from tests.support.training.checkpoint.distributed_job import check, job, save
from training.checkpoint import restore

OTHER = {"table": "row", "row": "replicated", "column": "table", "replicated": "column"}


def write(ranks, path, kind, optimizer, seed):
    ThreadRanks(ranks).run(lambda cluster: save(cluster, path, kind, optimizer, seed=seed) and None)


def read(ranks, path, kind, optimizer, seed):
    def load(cluster):
        reader = restore.latest_complete(path, cluster, pytest.fail)
        state = job(cluster, kind, optimizer, seed=2)
        restore.load(reader, state, training=True)
        check(state, seed)

    ThreadRanks(ranks).run(load)


@pytest.mark.parametrize(
    ("kind", "written", "others"),
    [("table", 4, (1, 3)), ("row", 4, (1, 3)), ("column", 2, (4,)), ("replicated", 2, (4,))],
)
def test_any_number_of_ranks_reads_any_placement(tmp_path, seed, kind, written, others):
    write(written, tmp_path, kind, "adagrad", seed)
    for ranks in others:
        read(ranks, tmp_path, kind if ranks > 1 else "row", "adagrad", seed)
        if ranks > 1:
            read(ranks, tmp_path, OTHER[kind], "adagrad", seed)


@pytest.mark.parametrize(
    ("kind", "written", "kind_read", "others", "optimizer"),
    [
        *(("sok-row", 3, "row", 2, optimizer) for optimizer in OPTIMIZERS),
        *(("table", 3, "sok-row", 2, optimizer) for optimizer in OPTIMIZERS),
        ("sok-table", 2, "row", 3, "adagrad"),
        ("sok-row", 1, "sok-table", 2, "adagrad"),
    ],
)
def test_either_backend_reads_the_other(
    tmp_path, seed, kind, written, kind_read, others, optimizer
):
    write(written, tmp_path, kind, optimizer, seed)
    read(others, tmp_path, kind_read, optimizer, seed)
