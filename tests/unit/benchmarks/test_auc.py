"""The arguments of the AUC benchmark."""

import pytest

from benchmarks import auc


@pytest.mark.parametrize("argument", ["--samples=0", "--compared=x", "--json=docs"])
def test_main_refuses_a_wrong_argument_before_it_measures(monkeypatch, capsys, argument):
    monkeypatch.setattr("sys.argv", ["benchmarks.auc", argument])
    with pytest.raises(SystemExit) as caught:
        auc.main()
    assert caught.value.code == 2
    output = capsys.readouterr()
    flag, value = argument.split("=")
    last_line = output.err.splitlines()[-1]
    assert flag in last_line and value in last_line
    assert not output.out
