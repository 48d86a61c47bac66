"""The scalars of a run, in files that TensorBoard reads and whose writing does not need it."""

import sys

import pytest
import tensorflow as tf

from training.telemetry.tensorboard import TensorBoard


def test_scalars_are_written_without_the_package_of_tensorboard(tmp_path, monkeypatch):
    for name in [*sys.modules]:
        if name.split(".")[0] == "tensorboard":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    sink = TensorBoard(tmp_path)
    sink.event({"event": "step", "step": 7, "loss": 0.5, "learning_rate": 2, "loss_scale": None})
    sink.event({"event": "memory", "step": 9, "peak_resident_bytes": 5_000_000_000})
    sink.event({"event": "message", "text": "of no interest"})
    sink.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    found = {}
    for event in map(tf.compat.v1.Event.FromString, records):
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            found[value.tag] = event.step, tf.make_ndarray(value.tensor).item()
    assert found == {
        "train/loss": (7, 0.5),
        "train/learning_rate": (7, 2.0),
        "memory/peak_resident_bytes": (9, pytest.approx(5e9, rel=1e-6)),
    }
