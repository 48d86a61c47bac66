"""Placement: every value has one owner, limits hold, errors carry table and bytes."""

import copy
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.embedding.placement import Assignment, Placement, PlacementError, plan
from model.embedding.placement_file import read_placement
from planner.published_runs import VOCABULARIES
from tests.support.paths import ROOT

# Two published vocabularies: MLPerf (at most 40 million rows) and TorchRec's "Full Size".
MLPERF, FULL_SIZE = VOCABULARIES["mlperf"], VOCABULARIES["full"]
GB = 10**9


def owner(placement, table, row, column=0):
    """Returns the first rank that holds a value."""
    for s in placement.shards_of_table(table):
        ids = range(s.row_offset, s.row_offset + s.rows * s.row_stride, s.row_stride)
        if row in ids and s.column_start <= column < s.column_end:
            return s.rank
    raise AssertionError(f"table {table}: no rank holds row {row}, column {column}")


def assert_covered_once(placement):
    """Lists the shards: every (table, row, column) has one owner, or all ranks if replicated."""
    owners = {}
    for shard in placement.shards:
        for j in range(shard.rows):
            row = shard.row_offset + j * shard.row_stride
            for column in range(shard.column_start, shard.column_end):
                owners.setdefault((shard.table, row, column), []).append(shard.rank)
    for table, rows in enumerate(placement.vocab_sizes):
        copies = placement.ranks if table in placement.replicated_tables else 1
        for row in range(rows):
            for column in range(placement.dimension):
                found = owners.pop((table, row, column), [])
                assert len(found) == copies, (table, row, column, found)
                assert len(set(found)) == copies
    assert not owners


def assert_back_to_back(placement):
    for rank in range(placement.ranks):
        for width in {s.width for s in placement.shards_of(rank)}:
            next_row = 0
            for shard in (s for s in placement.shards_of(rank) if s.width == width):
                assert shard.base_row == next_row
                next_row += shard.rows
            assert placement.rows_of(rank, width) == next_row


arguments = st.fixed_dictionaries(
    {
        "vocab_sizes": st.lists(st.integers(1, 40), min_size=1, max_size=12),
        "dimension": st.sampled_from([1, 2, 3, 4, 8]),
        "ranks": st.integers(1, 16),
        "policy": st.sampled_from(["auto", "table", "row"]),
        "replicate_below_rows": st.sampled_from([0, 0, 4, 100]),
        "column_split": st.sampled_from([False, "auto"]),
        "optimizer_bytes_per_row": st.sampled_from([0, 4, 32]),
        "bytes_per_rank": st.one_of(st.none(), st.integers(0, 3000)),
    }
)


@settings(max_examples=100, deadline=None)
@given(arguments)
def test_plan_covers_every_value_once_within_its_limits(kwargs):
    sizes, ranks, budget = kwargs["vocab_sizes"], kwargs["ranks"], kwargs["bytes_per_rank"]
    try:
        placement = plan(**kwargs)
    except PlacementError as error:
        assert budget is not None
        assert error.missing_bytes > 0
        assert re.search(rf"table {error.table}\b", str(error))
        assert f"{error.missing_bytes:,} bytes" in str(error)
        assert error.found > error.bound
        if kwargs["policy"] == "auto" and not kwargs["replicate_below_rows"]:
            with pytest.raises(PlacementError):  # then all tables row-wise do not fit either
                plan(**{**kwargs, "policy": "row"})
        return
    assert_covered_once(placement)
    assert_back_to_back(placement)
    assert placement == plan(**kwargs)
    for rank in range(ranks):
        if budget is not None:
            assert placement.bytes_of(rank) <= budget
        assert len(placement.tables_of(rank)) <= -(-len(sizes) // ranks)
        assert placement.columns_of(rank) <= -(-len(sizes) // ranks) * kwargs["dimension"]
    if kwargs["policy"] == "table":
        assert not placement.row_wise_tables
    if not kwargs["column_split"]:
        assert not placement.column_wise_tables
    for table in placement.replicated_tables:
        assert sizes[table] < kwargs["replicate_below_rows"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(0, 20_000),
)
def test_auto_is_row_wise_only_if_complete_tables_do_not_fit(sizes, ranks, budget):
    try:
        table_wise = plan(sizes, 4, ranks, policy="table", bytes_per_rank=budget)
    except PlacementError:
        table_wise = None
    try:
        placement = plan(sizes, 4, ranks, bytes_per_rank=budget)
    except PlacementError:
        assert table_wise is None
        return
    assert (table_wise is None) == bool(placement.row_wise_tables)
    if table_wise is not None:
        assert table_wise.assignments == placement.assignments
    else:  # the row-wise tables are the largest ones
        smallest = min(sizes[table] for table in placement.row_wise_tables)
        assert all(sizes[table] <= smallest for table in placement.table_wise_tables)


@pytest.mark.parametrize("budget", [40 * GB, 32 * GB, 24 * GB])
def test_mlperf_tables_on_eight_ranks_are_table_wise(budget):
    placement = plan(MLPERF, 128, 8, bytes_per_rank=budget)
    assert len(placement.table_wise_tables) == 26
    used = [placement.bytes_of(rank) for rank in range(8)]
    assert sum(used) == sum(MLPERF) * 512 == 96_136_908_288
    assert max(used) < 21 * GB  # one table of 40 million rows is 20.5 GB
    assert max(len(placement.tables_of(rank)) for rank in range(8)) == 4
    # No rank holds two of the five largest tables.
    largest = sorted(range(26), key=lambda t: -MLPERF[t])[:5]
    assert len({owner(placement, t, 0) for t in largest}) == 5


def test_large_mlperf_tables_on_eight_small_ranks_are_row_wise():
    placement = plan(MLPERF, 128, 8, bytes_per_rank=16 * GB)
    assert placement.row_wise_tables == (0, 9, 19, 20, 21)
    used = [placement.bytes_of(rank) for rank in range(8)]
    assert max(used) < 1.15 * sum(used) / 8


def test_row_policy_uses_soks_map_and_balances_to_a_row_per_table():
    placement = plan(MLPERF, 128, 8, policy="row")
    assert placement.row_wise_tables == tuple(range(26))
    used = [placement.bytes_of(rank) for rank in range(8)]
    assert max(used) - min(used) <= 26 * 512
    for shard in placement.shards:
        assert (shard.row_offset, shard.row_stride) == (shard.rank, 8)
    # Table 5 has three rows: ranks 3 to 7 have an empty shard.
    assert [s.rows for s in placement.shards_of_table(5)] == [1, 1, 1, 0, 0, 0, 0, 0]


def test_full_size_tables_on_eighty_ranks_of_40_gb():
    placement = plan(FULL_SIZE, 128, 80, bytes_per_rank=40 * GB)
    assert {0, 9, 19, 21} <= set(placement.row_wise_tables)
    used = [placement.bytes_of(rank) for rank in range(80)]
    assert sum(used) == sum(FULL_SIZE) * 512 > 451 * GB  # 420 GiB
    assert max(used) < 1.4 * sum(used) / 80
    with pytest.raises(PlacementError) as failure:
        plan(FULL_SIZE, 128, 80, policy="table", bytes_per_rank=40 * GB)
    assert failure.value.table == 19
    assert failure.value.missing_bytes == 292775614 * 512 - 40 * GB


def test_replicate_below_rows_replicates_smaller_tables():
    assert plan((3, 100), 4, 2).replicated_tables == ()
    placement = plan((3, 100), 4, 2, replicate_below_rows=4)
    assert placement.replicated_tables == (0,)
    assert placement.bytes_of(0) + placement.bytes_of(1) == (2 * 3 + 100) * 16
    assert owner(placement, 0, 2) == 0


def test_column_split_splits_only_for_balance_or_memory():
    assert plan(MLPERF, 128, 8).column_wise_tables == ()
    placement = plan(MLPERF, 128, 8, column_split="auto")
    assert len(placement.column_wise_tables) == 2
    assert max(placement.columns_of(rank) for rank in range(8)) == 3.5 * 128
    assert plan(MLPERF, 128, 13, column_split="auto").column_wise_tables == ()  # 2 each already
    # One table of 100 rows on two ranks with memory for half of it each.
    halves = plan((100,), 4, 2, policy="table", column_split="auto", bytes_per_rank=800)
    assert [s.kind for s in halves.shards] == ["column", "column"]
    assert [halves.bytes_of(rank) for rank in range(2)] == [800, 800]
    with pytest.raises(PlacementError) as failure:
        plan((100,), 4, 2, policy="table", bytes_per_rank=800)
    assert (failure.value.table, failure.value.missing_bytes) == (0, 800)


def test_bytes_per_rank_includes_optimizer_state():
    assert plan((100,), 4, 1, bytes_per_rank=1600).bytes_of(0) == 1600
    with pytest.raises(PlacementError) as failure:
        plan((100,), 4, 1, bytes_per_rank=1600, optimizer_bytes_per_row=16)
    assert failure.value.missing_bytes == 1600
    assert plan((100,), 4, 1, optimizer_bytes_per_row=4).bytes_of(0) == 2000


def test_auto_that_does_not_fit_is_an_error_with_the_largest_table_and_missing_bytes():
    with pytest.raises(PlacementError) as failure:
        plan((7, 101), 4, 2, bytes_per_rank=500)
    # Ranks 0 and 1 hold 4 + 51 and 3 + 50 rows of 16 bytes.
    assert failure.value.table == 1
    assert (failure.value.found, failure.value.bound) == (55 * 16, 500)
    assert failure.value.missing_bytes == 55 * 16 - 500


@pytest.mark.parametrize(
    ("change", "name", "fields"),
    [
        ({"vocab_sizes": ()}, "vocab_sizes", {"found": 0}),
        ({"vocab_sizes": (5, 0)}, "table 1", {"table": 1, "found": 0}),
        ({"vocab_sizes": (5.0,)}, "table 0", {"table": 0, "found": 5.0}),
        ({"dimension": 0}, "dimension", {"found": 0, "bound": 1}),
        ({"ranks": 0}, "ranks", {"found": 0, "bound": 1}),
        ({"policy": "fast"}, "policy", {}),
        ({"bytes_per_rank": -1}, "bytes_per_rank", {"found": -1, "bound": 0}),
        ({"optimizer_bytes_per_row": 1.5}, "optimizer_bytes_per_row", {"found": 1.5}),
        ({"replicate_below_rows": -3}, "replicate_below_rows", {"found": -3}),
    ],
)
def test_plan_refuses_arguments_out_of_range(change, name, fields):
    with pytest.raises(PlacementError, match=name) as caught:
        plan(**{"vocab_sizes": (5, 6), "dimension": 4, "ranks": 2, **change})
    assert fields.items() <= caught.value.fields.items()


BY_HAND = {
    "tables": [
        {"table": 2, "kind": "column", "ranks": [2, 0]},
        {"table": 0, "kind": "table", "rank": 1},
        {"table": 1, "kind": "row"},
        {"table": 3, "kind": "replicated"},
    ]
}
RUN = {"vocab_sizes": (10, 7, 5, 2), "dimension": 4, "ranks": 3}


def test_read_placement_from_a_file_written_by_hand(tmp_path):
    path = tmp_path / "placement.json"
    path.write_text(json.dumps(BY_HAND))
    placement = read_placement(path, **RUN)
    assert_covered_once(placement)
    assert_back_to_back(placement)
    assert placement.tables_of(1) == (0,)
    assert owner(placement, 2, 0, column=0) == 2
    assert owner(placement, 2, 0, column=2) == 0
    assert owner(placement, 1, 5) == 2
    text = placement.describe()
    assert "0 1r 3*" in text
    assert "2c[0:2]" in text


def entry(position, **changes):
    return lambda d: d["tables"][position].update(changes)


@pytest.mark.parametrize(
    ("damage", "fields"),
    [
        (lambda d: d.pop("tables"), {"field": "tables"}),
        (lambda d: d.update(tables=[]), {"table": 0}),
        (lambda d: d.update(tables=[5]), {"field": "tables[0]", "found": 5}),
        (lambda d: d["tables"].pop(), {"table": 3}),
        (lambda d: d["tables"].append(d["tables"][0]), {"table": 2}),
        (entry(1, table=4), {"table": 4, "bound": 4}),
        (entry(1, table="0"), {"field": "tables[1].table", "found": "0"}),
        (entry(1, kind="whole"), {"field": "tables[1].kind", "found": "whole"}),
        (entry(1, kind="row"), {"table": 0}),
        (entry(1, rank=3), {"table": 0, "bound": 3}),
        (entry(1, rank=-1), {"table": 0}),
        (entry(1, rank=True), {"field": "tables[1].rank", "found": True}),
        (entry(0, ranks=[1]), {"table": 2}),
        (entry(0, ranks=[1, 1]), {"table": 2}),
        (entry(0, ranks="01"), {"field": "tables[0].ranks", "found": "01"}),
        (lambda d: d.update(ranks=4), {"found": 4}),
        (lambda d: d.update(dimension=8), {"found": 8}),
        (lambda d: d.update(vocab_sizes=[10, 7]), {"expected": 4, "found": 2}),
        (lambda d: d.update(vocab_sizes=[10, 7, 6, 2]), {"table": 2, "found": 6}),
        (lambda d: d.update(vocab_sizes=9), {"field": "vocab_sizes"}),
        (lambda d: d.update(bytes_per_rank=20), {"flag": "placement", "bound": 20}),
        (lambda d: d.update(optimizer_bytes_per_row=-4), {"field": "optimizer_bytes_per_row"}),
        (lambda d: d.update(version=2), {"field": "version", "found": 2}),
        (lambda d: d.update(placement="auto"), {"found": "placement"}),
    ],
)
def test_read_placement_refuses_wrong_files(tmp_path, damage, fields):
    document = copy.deepcopy(BY_HAND)
    damage(document)
    path = tmp_path / "by_hand.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlacementError) as caught:
        read_placement(path, **RUN)
    assert {"path": str(path), **fields}.items() <= caught.value.__dict__.items()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "[1]", "{", '{"ranks": 1, "ranks": 2}'])
def test_read_placement_refuses_a_missing_file_and_other_content(tmp_path, content):
    path = tmp_path / "placement.json"
    if content:
        path.write_text(content)
    with pytest.raises(PlacementError) as caught:
        read_placement(path, **RUN)
    assert caught.value.path == str(path)


def test_odd_dimension_cannot_be_split_by_column():
    with pytest.raises(PlacementError) as caught:
        Placement((5,), 3, 2, (Assignment("column", (0, 1)),))
    assert caught.value.table == 0


def test_example_in_the_documentation_is_a_placement(tmp_path):
    page = (ROOT / "docs" / "placement.md").read_text(encoding="utf-8")
    path = tmp_path / "placement.json"
    path.write_text(page.split("```json\n")[1].split("```")[0])
    sizes = (40_000_000, 30_000, 3, 25_000_000)
    placement = read_placement(path, vocab_sizes=sizes, dimension=128, ranks=4)
    assert owner(placement, 0, 6) == 2
    assert owner(placement, 1, 6) == 2
    assert [owner(placement, 3, 6, column) for column in (0, 64)] == [0, 1]
