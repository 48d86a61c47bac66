"""--mode=inference_benchmark: batch sizes and the rows of its table."""

import numpy as np
import pytest

from training.checkpoint.compatibility import SYNTHETIC
from training.config import Config
from training.modes.inference_benchmark import batch_sizes, heading, line_of, row_of
from training.runtime.errors import UserError


def test_row_has_the_percentiles_of_its_calls(rng):
    seconds = rng.permutation(np.arange(1, 102) / 1000)
    row = row_of(510, seconds)
    assert row["calls"] == 101
    for percent in (50, 90, 95, 99):  # Of 1, 2, ... 101 ms.
        assert row[f"p{percent}_ms"] == pytest.approx(1 + percent)
    assert row["mean_ms"] == pytest.approx(51)
    assert row["samples_per_second"] == pytest.approx(10_000)
    assert line_of(row).split() == [
        "510", "51.000", "51.000", "91.000", "96.000", "100.000", "10,000", "101",
    ]  # fmt: skip


def test_default_batch_sizes_are_rounded_up_to_the_ranks():
    config = Config().with_values(batch_sizes="1,4,7")
    assert batch_sizes(config, 3) == [3, 6, 9]


def test_given_batch_sizes_must_be_divisible_by_the_ranks():
    config = Config(given=frozenset({"batch_sizes"})).with_values(batch_sizes="4,7")
    assert batch_sizes(config, 1) == [4, 7]
    with pytest.raises(UserError) as caught:
        batch_sizes(config, 2)
    assert (caught.value.flag, caught.value.bound) == ("batch_sizes", 2)


def test_heading_names_weights_and_samples():
    facts = {"checkpoint": None, "step": None, "ranks": 2, "dtype": "float32",
             "data": {"layout": SYNTHETIC}}  # fmt: skip
    text = heading(facts)
    for line in ("weights: initial", "batches: random"):
        assert line in text.splitlines()
    data = {"layout": "raw", "data_dir": "/data"}
    text = heading({**facts, "checkpoint": "/c", "step": 3, "data": data})
    for line in ("weights: step 3 of /c", "batches: test data of /data"):
        assert line in text.splitlines()
