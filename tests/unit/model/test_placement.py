"""Placement: every value owned exactly once, limits kept, errors that name table and bytes."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.embedding.placement import PlacementError, plan
from model.embedding.placement_file import placement_text, read_placement
from tests.support.paths import ROOT

# The two published vocabularies: MLPerf (40 million row limit) and TorchRec's "Full Size".
MLPERF = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208,
    11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip
FULL_SIZE = (
    227605432, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 130229467, 3067956, 405282, 10, 2209,
    11938, 155, 4, 976, 14, 292775614, 40790948, 187188510, 590152, 12973, 108, 36,
)  # fmt: skip
GB = 10**9


def covered_once(placement):
    """Every (table, row, column) of every non-replicated table, found by listing the shards."""
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
                assert placement.owner(table, row, column) == found[0]
    assert not owners


def rows_back_to_back(placement):
    for rank in range(placement.ranks):
        for width in {s.width for s in placement.shards_of(rank)}:
            shards = [s for s in placement.shards_of(rank) if s.width == width]
            next_row = 0
            for shard in shards:
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


@settings(max_examples=300, deadline=None)
@given(arguments)
def test_any_placement_covers_every_value_once_within_its_limits(kwargs):
    sizes, ranks, budget = kwargs["vocab_sizes"], kwargs["ranks"], kwargs["bytes_per_rank"]
    try:
        placement = plan(**kwargs)
    except PlacementError as error:
        assert budget is not None
        assert error.missing_bytes > 0
        assert f"table {error.table} " in str(error)
        assert f"{error.missing_bytes:,} bytes" in str(error)
        if kwargs["policy"] == "auto" and not kwargs["replicate_below_rows"]:
            with pytest.raises(PlacementError):  # then all tables row-wise do not fit either
                plan(**{**kwargs, "policy": "row"})
        return
    covered_once(placement)
    rows_back_to_back(placement)
    assert placement == plan(**kwargs)
    assert read_placement(placement_text(placement)) == placement
    assert read_placement(placement_text(placement)).shards == placement.shards
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
@given(arguments)
def test_bytes_are_the_rows_times_their_width_and_state(kwargs):
    placement = plan(**{**kwargs, "bytes_per_rank": None})
    state, dimension = kwargs["optimizer_bytes_per_row"], kwargs["dimension"]
    for rank in range(kwargs["ranks"]):
        expected = 0
        for shard in placement.shards_of(rank):
            per_row = state * shard.width // dimension if state % dimension == 0 else state
            expected += shard.rows * (4 * shard.width + per_row)
        assert placement.bytes_of(rank) == expected


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(0, 20_000),
)
def test_auto_takes_rows_only_where_whole_tables_do_not_fit(sizes, ranks, budget):
    try:
        whole = plan(sizes, 4, ranks, policy="table", bytes_per_rank=budget)
    except PlacementError:
        whole = None
    try:
        placement = plan(sizes, 4, ranks, bytes_per_rank=budget)
    except PlacementError:
        assert whole is None
        return
    assert (whole is None) == bool(placement.row_wise_tables)
    if whole is not None:
        assert whole.assignments == placement.assignments
    else:  # the row-wise tables are the largest ones
        smallest = min(sizes[table] for table in placement.row_wise_tables)
        assert all(sizes[table] <= smallest for table in placement.table_wise_tables)


@pytest.mark.parametrize("budget", [40 * GB, 32 * GB, 24 * GB])
def test_mlperf_tables_on_eight_ranks_stay_whole(budget):
    placement = plan(MLPERF, 128, 8, bytes_per_rank=budget)
    assert len(placement.table_wise_tables) == 26
    used = [placement.bytes_of(rank) for rank in range(8)]
    assert sum(used) == sum(MLPERF) * 512 == 96_136_908_288
    assert max(used) < 21 * GB  # one table of 40 million rows is 20.5 GB
    assert max(len(placement.tables_of(rank)) for rank in range(8)) == 4
    # The five largest lie alone on their memory: no rank holds two of them.
    largest = sorted(range(26), key=lambda t: -MLPERF[t])[:5]
    assert len({placement.owner(t, 0) for t in largest}) == 5


def test_mlperf_tables_on_eight_small_ranks_deal_the_large_ones_by_row():
    placement = plan(MLPERF, 128, 8, bytes_per_rank=16 * GB)
    assert placement.row_wise_tables == (0, 9, 19, 20, 21)
    used = [placement.bytes_of(rank) for rank in range(8)]
    assert max(used) < 1.15 * sum(used) / 8


def test_row_policy_uses_the_map_of_sok_and_balances_to_a_row_per_table():
    placement = plan(MLPERF, 128, 8, policy="row")
    assert placement.row_wise_tables == tuple(range(26))
    used = [placement.bytes_of(rank) for rank in range(8)]
    assert max(used) - min(used) <= 26 * 512
    for table, row in ((0, 0), (0, 39884405), (5, 2), (19, 1234567)):
        shard, fused = placement.locate(table, row)
        assert shard.rank == row % 8
        assert fused - shard.base_row == row // 8
    # Table 5 has three rows: ranks 3 to 7 hold none of it, but have a (empty) shard.
    assert [s.rows for s in placement.shards_of_table(5)] == [1, 1, 1, 0, 0, 0, 0, 0]


def test_full_size_tables_on_eighty_ranks_of_40_gb():
    placement = plan(FULL_SIZE, 128, 80, bytes_per_rank=40 * GB)
    assert {0, 9, 19, 21} <= set(placement.row_wise_tables)
    used = [placement.bytes_of(rank) for rank in range(80)]
    assert sum(used) == sum(FULL_SIZE) * 512 > 451 * GB  # 420 GiB
    assert max(used) < 1.4 * sum(used) / 80
    with pytest.raises(PlacementError, match=r"table 19 \(292,775,614 rows\)") as failure:
        plan(FULL_SIZE, 128, 80, policy="table", bytes_per_rank=40 * GB)
    assert failure.value.table == 19
    assert failure.value.missing_bytes == 292775614 * 512 - 40 * GB


def test_one_rank_holds_everything_in_order():
    placement = plan(MLPERF, 128, 1)
    assert placement.tables_of(0) == tuple(range(26))
    assert placement.rows_of(0) == sum(MLPERF)
    assert placement.locate(2, 5)[1] == MLPERF[0] + MLPERF[1] + 5


def test_three_ranks_share_evenly():
    placement = plan(MLPERF, 128, 3)
    assert sorted(len(placement.tables_of(rank)) for rank in range(3)) == [8, 9, 9]
    used = [placement.bytes_of(rank) for rank in range(3)]
    assert max(used) < 1.3 * sum(used) / 3


def test_more_ranks_than_tables_leaves_ranks_without_rows():
    placement = plan((10, 20), 4, 5)
    assert [len(placement.tables_of(rank)) for rank in range(5)] == [1, 1, 0, 0, 0]
    assert placement.tables_of(0) == (1,)
    assert placement.rows_of(4) == placement.bytes_of(4) == 0
    assert placement.shards_of(4) == ()


def test_replicated_tables_only_when_asked():
    assert plan((3, 100), 4, 2).replicated_tables == ()
    placement = plan((3, 100), 4, 2, replicate_below_rows=4)
    assert placement.replicated_tables == (0,)
    assert placement.bytes_of(0) + placement.bytes_of(1) == (2 * 3 + 100) * 16
    assert placement.owner(0, 2) == 0


def test_column_halves_only_where_they_balance_better():
    assert plan(MLPERF, 128, 8).column_wise_tables == ()
    placement = plan(MLPERF, 128, 8, column_split="auto")
    assert len(placement.column_wise_tables) == 2
    assert max(placement.columns_of(rank) for rank in range(8)) == 3.5 * 128
    assert plan(MLPERF, 128, 13, column_split="auto").column_wise_tables == ()  # 2 each already
    # One table of 100 rows on two ranks that each have room for half of it.
    halves = plan((100,), 4, 2, policy="table", column_split="auto", bytes_per_rank=800)
    assert [s.kind for s in halves.shards] == ["column", "column"]
    assert [halves.bytes_of(rank) for rank in range(2)] == [800, 800]
    with pytest.raises(PlacementError, match=r"table 0 .* 800 bytes .* are missing"):
        plan((100,), 4, 2, policy="table", bytes_per_rank=800)


def test_optimizer_state_counts_against_the_budget():
    assert plan((100,), 4, 1, bytes_per_rank=1600).bytes_of(0) == 1600
    with pytest.raises(PlacementError) as failure:
        plan((100,), 4, 1, bytes_per_rank=1600, optimizer_bytes_per_row=16)
    assert failure.value.missing_bytes == 1600
    assert plan((100,), 4, 1, optimizer_bytes_per_row=4).bytes_of(0) == 2000


def test_error_of_auto_names_the_largest_table_and_what_each_rank_lacks():
    with pytest.raises(PlacementError, match="table 1 with 101 rows") as failure:
        plan((7, 101), 4, 2, bytes_per_rank=500)
    # Ranks 0 and 1 hold 4 + 51 and 3 + 50 rows of 16 bytes.
    assert failure.value.missing_bytes == 55 * 16 - 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_sizes": ()}, "no table"),
        ({"vocab_sizes": (5, 0)}, "table 1: its size is 0"),
        ({"vocab_sizes": (5, True)}, "table 1: its size is True"),
        ({"vocab_sizes": (5.0,)}, "table 0: its size is 5.0"),
        ({"dimension": 0}, "dimension is 0"),
        ({"ranks": 0}, "ranks is 0"),
        ({"policy": "fast"}, "policy is 'fast'"),
        ({"column_split": "yes"}, "column_split is 'yes'"),
        ({"bytes_per_rank": -1}, "bytes_per_rank is -1"),
        ({"optimizer_bytes_per_row": 1.5}, "optimizer_bytes_per_row is 1.5"),
        ({"replicate_below_rows": -3}, "replicate_below_rows is -3"),
    ],
)
def test_arguments_out_of_range(change, message):
    with pytest.raises(PlacementError, match=message):
        plan(**{"vocab_sizes": (5, 6), "dimension": 4, "ranks": 2, **change})


BY_HAND = {
    "tables": [
        {"table": 2, "kind": "column", "ranks": [2, 0]},
        {"table": 0, "kind": "table", "rank": 1},
        {"table": 1, "kind": "row"},
        {"table": 3, "kind": "replicated"},
    ]
}
RUN = {"vocab_sizes": (10, 7, 5, 2), "dimension": 4, "ranks": 3}


def test_placement_by_hand_from_a_file(tmp_path):
    path = tmp_path / "placement.json"
    path.write_text(json.dumps(BY_HAND))
    placement = read_placement(path, **RUN)
    covered_once(placement)
    rows_back_to_back(placement)
    assert placement.tables_of(1) == (0,)
    assert placement.owner(2, 0, column=0) == 2
    assert placement.owner(2, 0, column=2) == 0
    assert placement.owner(1, 5) == 2
    assert placement == read_placement(str(path), **RUN)
    text = placement.describe()
    assert "0 1r 3*" in text
    assert "2c[0:2]" in text


def without(key):
    return lambda d: d.pop(key)


def tables(value):
    return lambda d: d.update(tables=value)


def entry(position, **changes):
    return lambda d: d["tables"][position].update(changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("tables"), "'tables' is missing"),
        (tables([]), "table 0 is not placed"),
        (tables([5]), r"tables\[0\]: expected object, found 5"),
        (tables({"0": 1}), "tables: expected list, found an object of 1"),
        (lambda d: d["tables"].pop(), "table 3 is not placed"),
        (lambda d: d["tables"].append(d["tables"][0]), "table 2 is placed twice"),
        (entry(1, table=4), "table 4: there are 4 tables, 0 to 3"),
        (entry(1, table="0"), r"tables\[1\] is"),
        (entry(1, kind="whole"), "table 0: kind is 'whole'"),
        (entry(1, kind=["row"]), r"table 0: kind is \['row'\]"),
        (entry(1, kind="row"), "table 0: a table of kind 'row' has the keys kind, table; found"),
        (entry(1, rank=3), "table 0: rank 3 is not one of the 3 ranks 0 to 2"),
        (entry(1, rank=-1), "table 0: rank -1 is not"),
        (entry(1, rank="1"), "table 0: rank '1' is not"),
        (entry(1, rank=True), "table 0: rank True is not"),
        (entry(0, ranks=[1]), "table 2: kind 'column' takes 2"),
        (entry(0, ranks=[1, 1]), "table 2: both column halves are on one rank"),
        (entry(0, ranks="01"), "table 2: ranks is '01', not a list"),
        (lambda d: d.update(ranks=4), "ranks is 4 in the file, 3 in this run"),
        (lambda d: d.update(dimension=8), "dimension is 8 in the file, 4 in this run"),
        (lambda d: d.update(vocab_sizes=[1, 2]), "the file lists 2 tables, this run has 4"),
        (
            lambda d: d.update(vocab_sizes=[10, 7, 6, 2]),
            "table 2 has 6 rows in the file, 5 in this run",
        ),
        (lambda d: d.update(vocab_sizes=9), "vocab_sizes: expected list, found 9"),
        (lambda d: d.update(bytes_per_rank=20), "rank 0 would hold .* bytes are missing"),
        (
            lambda d: d.update(bytes_per_rank="20"),
            "bytes_per_rank: expected int .* found '20'",
        ),
        (
            lambda d: d.update(optimizer_bytes_per_row=-4),
            "optimizer_bytes_per_row: expected int >= 0",
        ),
        (lambda d: d.update(version=2), "version 2, expected 'dlrm-placement' version 1"),
        (lambda d: d.update(placement="auto"), "unknown key 'placement'"),
    ],
)
def test_every_mistake_in_a_placement_file_has_its_own_error(tmp_path, damage, message):
    document = json.loads(json.dumps(BY_HAND))
    damage(document)
    path = tmp_path / "by_hand.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlacementError, match=message) as failure:
        read_placement(path, **RUN)
    assert str(path) in str(failure.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{" + '"tables": ' + "[" * 100_000, "is nested too deep"),
        ('{"ranks": 1, "ranks": 2}', "the field 'ranks' occurs twice"),
        ('{"tables": []}', "vocab_sizes is missing"),
        ('{"vocab_sizes": "many"}', "vocab_sizes: expected list, found 'many'"),
        ('{"vocab_sizes": [5], "ranks": 1, "dimension": 2}', "'tables' is missing"),
        ('{"vocab_sizes": [5], "ranks": 0, "dimension": 2, "tables": '
         '[{"table": 0, "kind": "row"}]}', "ranks: expected int >= 1, found 0"),
        ('{"vocab_sizes": [5], "ranks": 2, "dimension": 3, "tables": '
         '[{"table": 0, "kind": "column", "ranks": [0, 1]}]}', "dimension 3 is odd"),
    ],
)  # fmt: skip
def test_text_that_is_no_placement(text, message):
    with pytest.raises(PlacementError, match=message):
        read_placement(text)


def test_unreadable_file(tmp_path):
    with pytest.raises(PlacementError, match=r"nowhere.json: cannot read"):
        read_placement(tmp_path / "nowhere.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(PlacementError, match="expected a JSON object, found list"):
        read_placement(tmp_path / "list.json")


def test_ids_outside_a_table_have_no_owner():
    placement = plan((10, 20), 4, 3, policy="row")
    for table, row, column in ((0, 10, 0), (0, -1, 0), (1, 0, 4), (1, 0, -1)):
        with pytest.raises(IndexError, match=f"table {table}"):
            placement.owner(table, row, column)


def test_placement_imports_neither_tensorflow_nor_numpy():
    code = (
        "import sys; from model.embedding.placement import plan; "
        "from model.embedding.placement_file import placement_text, read_placement; "
        "read_placement(placement_text(plan((9, 4), 2, 2))); "
        "assert not {'tensorflow', 'numpy', 'keras', 'horovod'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documented_example_is_a_placement():
    page = ROOT / "docs" / "placement.md"
    text = page.read_text(encoding="utf-8").split("```json\n")[1].split("```")[0]
    placement = read_placement(text)
    assert placement.owner(0, 6) == 2
    assert placement.owner(1, 6) == 2
    assert [placement.owner(3, 6, column) for column in (0, 64)] == [0, 1]
