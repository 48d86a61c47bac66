"""python3 -m training.checkpoint: what it says, what it writes, and what damage escapes it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.support import launch
from tests.support.training import checkpoints
from training.checkpoint import __main__ as command
from training.checkpoint import damage

VOCAB = [5, 4, 1]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of steps 3 and 7 of two ranks: (folder, tables, dense arrays)."""
    folder = tmp_path_factory.mktemp("checkpoints") / "made"
    tables, dense = checkpoints.write(folder, VOCAB, ranks=2, steps=(3, 7))
    return folder, tables, dense


@pytest.fixture
def copied(written, tmp_path):
    """A copy of the folder, to be damaged."""
    shutil.copytree(written[0], tmp_path / "copy")
    return tmp_path / "copy"


def flip(path, position, bits):
    with open(path, "r+b") as file:
        file.seek(position)
        (old,) = file.read(1)
        file.seek(position)
        file.write(bytes([old ^ bits]))


def places(checkpoint, most):
    """Returns [(file, position)] of all bytes of a checkpoint, or of `most` random ones."""
    every = [
        (path, position)
        for path in sorted(checkpoint.iterdir())
        for position in range(path.stat().st_size)
    ]
    if most is None:
        return every
    chosen = np.random.default_rng().choice(len(every), most, replace=False)
    return [every[index] for index in sorted(chosen)]


@pytest.mark.parametrize("most", [2000, pytest.param(None, marks=pytest.mark.slow)])
def test_every_flipped_byte_is_found(copied, most):
    """Bytes of all files, each changed by random bits."""
    checkpoint = copied / "step-000000007"
    assert damage.find_problems(checkpoint) == []
    random = np.random.default_rng()
    chosen = places(checkpoint, most)
    for path, position in chosen:
        bits = int(random.integers(1, 256))
        flip(path, position, bits)
        assert damage.find_problems(checkpoint), f"{path.name}, byte {position}, bits {bits:08b}"
        flip(path, position, bits)
    assert damage.find_problems(checkpoint) == []
    print(f"{len(chosen)} flipped bytes, all found")


@pytest.mark.parametrize("most", [1000, pytest.param(None, marks=pytest.mark.slow)])
def test_every_truncation_is_found(copied, most):
    """Files cut to a length below their own, and gone."""
    checkpoint = copied / "step-000000007"
    chosen = places(checkpoint, most)
    for path, length in chosen:
        content = path.read_bytes()
        os.truncate(path, length)
        assert damage.find_problems(checkpoint), f"{path.name} cut to {length} bytes"
        path.write_bytes(content)
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        path.unlink()
        assert damage.find_problems(checkpoint), f"{path.name} removed"
        path.write_bytes(content)
    assert damage.find_problems(checkpoint) == []
    print(f"{len(chosen)} truncations, all found")


def test_verify_names_every_damaged_file(written, copied, capsys):
    assert command.main(["verify", str(written[0])]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{written[0] / f'step-00000000{step}'}: whole" for step in (3, 7)]
    older = copied / "step-000000003"
    flip(older / "table_00.rank_1.npy", 130, 1)
    flip(older / "dense.00.kernel.npy", 200, 64)
    assert command.main(["verify", str(copied)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert str(older / "dense.00.kernel.npy") in lines[0]
    assert str(older / "table_00.rank_1.npy") in lines[1]
    assert lines[2:] == [f"{older}: 2 damaged", f"{copied / 'step-000000007'}: whole"]
    assert command.main(["verify", str(copied / "step-000000007")]) == 0
    # Without its checksums it still is a checkpoint, and a damaged one.
    (copied / "step-000000007" / "SHA256SUMS").unlink()
    assert command.main(["verify", str(copied / "step-000000007")]) == 2
    assert "SHA256SUMS" in capsys.readouterr().out


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("policy", ["table", "row"])
def test_exports_whole_tables(tmp_path, ranks, policy):
    vocab = [6, 2, 9, 1]
    tables, dense = checkpoints.write(
        tmp_path / "made", vocab, ranks=ranks, policy=policy, optimizer="adagrad"
    )
    out = tmp_path / "arrays"
    assert command.main(["export", str(tmp_path / "made"), str(out)]) == 0
    for number, table in enumerate(tables):
        found = np.load(out / f"table_{number:02d}.npy", allow_pickle=False)
        np.testing.assert_array_equal(found, table, strict=True)
    names = sorted(path.name for path in (out / "dense").iterdir())
    assert len(names) == len(dense)
    for name, values in zip(names, dense):
        np.testing.assert_array_equal(np.load(out / "dense" / name), values, strict=True)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert manifest["vocab_sizes"] == vocab
    assert manifest["dense_transform"] == "log(x+1)"
    assert [entry["shape"] for entry in manifest["tables"]] == [[rows, 4] for rows in vocab]
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=out, check=False)
    assert done.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays", "made"]


def test_export_takes_the_newest_whole_one_and_a_new_folder(copied, tmp_path, capsys):
    flip(copied / "step-000000007" / "table_01.rank_0.npy", 129, 3)
    out = tmp_path / "out"
    assert command.main(["export", str(copied), str(out)]) == 0
    assert json.loads((out / "manifest.json").read_text())["step"] == 3
    assert "step-000000007 is damaged" in capsys.readouterr().err
    assert command.main(["export", str(copied), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert command.main(["export", str(copied / "step-000000007"), str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_a_part_that_is_missing_from_the_manifest_is_damage(copied, tmp_path):
    """A manifest with a checksum of its own that describes fewer rows than its tables have."""
    import hashlib

    checkpoint = copied / "step-000000007"
    path, sums = checkpoint / "manifest.json", checkpoint / "SHA256SUMS"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads(path.read_text())
    gone = manifest["tables"].pop(0)
    path.write_text(json.dumps(manifest))
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))
    (line,) = damage.find_problems(checkpoint)
    assert f"table {gone['table']}" in line
    assert command.main(["export", str(checkpoint), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_inspect_says_what_is_there(written, capsys):
    folder, tables, dense = written
    assert command.main(["inspect", "--json", str(folder)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["checkpoint"] == str(folder / "step-000000007")
    assert (facts["step"], facts["ranks"], facts["embedding_dim"]) == (7, 2, 4)
    assert [t["rows"] for t in facts["tables"]] == VOCAB
    assert [t["bytes"] for t in facts["tables"]] == [table.nbytes for table in tables]
    assert [t["parts"] for t in facts["tables"]] == [2, 2, 2]
    assert list(facts["dense"].values()) == [list(array.shape) for array in dense]
    assert facts["bytes"] == sum(
        path.stat().st_size for path in (folder / "step-000000007").iterdir()
    )
    assert facts["evaluations"][0]["auc"] == 0.625
    assert facts["flags"]["embedding_optimizer"] == "sgd"
    assert command.main(["inspect", str(folder / "step-000000003")]) == 0
    text = capsys.readouterr().out
    for word in ("step 3", "2 ranks", "AUC 0.625", "--embedding_optimizer=sgd", "[16, 3]"):
        assert word in text, text
    assert "transform of dense counts: log(x+1)" in text


@pytest.mark.parametrize("name", ["inspect", "verify", "export"])
def test_what_is_no_checkpoint_is_one_line(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for path in ("missing", "empty", "file"):
        out = [str(tmp_path / "out")] if name == "export" else []
        assert command.main([name, str(tmp_path / path), *out]) == 2
        told = capsys.readouterr()
        assert told.err.count("\n") == 1
        assert path in told.err
    assert not (tmp_path / "out").exists()


def test_a_reader_that_goes_away_is_no_error(written):
    readable, writable = os.pipe()
    os.close(readable)
    done = subprocess.run(
        [sys.executable, "-m", "training.checkpoint", "inspect", str(pathlib.Path(written[0]))],
        cwd=launch.ROOT, env=launch.environment(), stdout=writable, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    os.close(writable)
    assert done.returncode == 141
    assert done.stderr == ""


def test_tensorflow_is_not_imported(written):
    code = (
        "import sys; from training.checkpoint.__main__ import main; "
        "code = main(sys.argv[1:]); "
        "assert not any(n.split('.')[0] in ('tensorflow', 'horovod') for n in sys.modules); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", str(pathlib.Path(written[0]))], cwd=launch.ROOT,
        env=launch.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": whole") == 2
