"""`python3 -m training.checkpoint`: inspect, verify, export."""

import json
import shutil

import numpy as np
import pytest

from tests.support.training import checkpoints
from training.checkpoint import __main__ as command

VOCAB = [5, 4, 1]


@pytest.fixture(scope="module")
def written(tmp_path_factory, seed_of):
    """Checkpoints of steps 3 and 7 of two ranks: (folder, tables, dense arrays)."""
    path = tmp_path_factory.mktemp("checkpoints")
    rng = np.random.default_rng(seed_of("command"))
    tables, dense = checkpoints.write(path, VOCAB, rng, ranks=2, steps=(3, 7))
    return path, tables, dense


@pytest.fixture
def copied(written, tmp_path):
    """A copy of the folder, to be damaged."""
    shutil.copytree(written[0], tmp_path / "copy")
    return tmp_path / "copy"


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_verify_names_every_damaged_file(copied, capsys):
    older, newer = copied / "step-000000003", copied / "step-000000007"
    flip(older / "table_00.rank_1.npy", 130)
    flip(older / "dense.00.kernel.npy", 200)
    assert command.main(["verify", str(copied)]) == 2
    lines = capsys.readouterr().out.splitlines()
    for line, name in zip(lines, ("dense.00.kernel.npy", "table_00.rank_1.npy")):
        assert str(older / name) in line
    assert lines[2:] == [f"{older}: 2 damaged", f"{newer}: complete"]
    assert command.main(["verify", str(newer)]) == 0
    # Without its checksums it is still a checkpoint, but a damaged one.
    (newer / "SHA256SUMS").unlink()
    assert command.main(["verify", str(newer)]) == 2
    assert "SHA256SUMS" in capsys.readouterr().out


@pytest.mark.parametrize(("ranks", "policy"), [(1, "table"), (2, "table"), (3, "row")])
def test_export_writes_complete_tables(tmp_path, rng, ranks, policy):
    vocab, made, out = [6, 2, 9, 1], tmp_path / "made", tmp_path / "arrays"
    options = {"ranks": ranks, "policy": policy, "optimizer": "adagrad"}
    tables, dense = checkpoints.write(made, vocab, rng, **options)
    assert command.main(["export", str(made), str(out)]) == 0
    for number, table in enumerate(tables):
        found = np.load(out / f"table_{number:02d}.npy", allow_pickle=False)
        np.testing.assert_array_equal(found, table, strict=True)
    names = sorted(path.name for path in (out / "dense").iterdir())
    assert len(names) == len(dense)
    for name, values in zip(names, dense):
        np.testing.assert_array_equal(np.load(out / "dense" / name), values, strict=True)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["step"], manifest["dense_transform"]) == (7, "log(x+1)")
    assert manifest["vocab_sizes"] == vocab
    assert [entry["shape"] for entry in manifest["tables"]] == [[rows, 4] for rows in vocab]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays", "made"]


def test_export_takes_the_newest_complete_checkpoint_and_a_new_folder(copied, tmp_path, capsys):
    flip(copied / "step-000000007" / "table_01.rank_0.npy", 129)
    out = tmp_path / "out"
    assert command.main(["export", str(copied), str(out)]) == 0
    assert json.loads((out / "manifest.json").read_text())["step"] == 3
    assert str(copied / "step-000000007") in capsys.readouterr().err
    assert command.main(["export", str(copied), str(out)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {out}: ")
    assert command.main(["export", str(copied / "step-000000007"), str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_inspect_prints_the_contents(written, capsys):
    folder, tables, dense = written
    assert command.main(["inspect", "--json", str(folder)]) == 0
    facts = json.loads(capsys.readouterr().out)
    newest = folder / "step-000000007"
    assert facts["checkpoint"] == str(newest)
    assert (facts["step"], facts["ranks"], facts["embedding_dim"]) == (7, 2, 4)
    found = [(t["rows"], t["bytes"], t["parts"]) for t in facts["tables"]]
    assert found == [(len(table), table.nbytes, 2) for table in tables]
    assert list(facts["dense"].values()) == [list(array.shape) for array in dense]
    assert facts["bytes"] == sum(path.stat().st_size for path in newest.iterdir())
    assert facts["evaluations"][0]["auc"] == 0.625
    assert facts["flags"]["embedding_optimizer"] == "sgd"
    assert command.main(["inspect", str(folder / "step-000000003")]) == 0
    text = capsys.readouterr().out
    for word in ("step 3", "2 ranks", "AUC 0.625", "--embedding_optimizer=sgd", "[16, 3]",
                 "log(x+1)"):  # fmt: skip
        assert word in text, text


@pytest.mark.parametrize("name", ["inspect", "verify", "export"])
def test_a_path_without_a_checkpoint_is_one_line(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for path in ("missing", "empty", "file"):
        out = [str(tmp_path / "out")] if name == "export" else []
        assert command.main([name, str(tmp_path / path), *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(tmp_path / path) in line
    assert not (tmp_path / "out").exists()
