"""Errors of TensorFlow, Horovod and NumPy become one-line errors."""

import pytest
import tensorflow as tf

from training.runtime.error_translation import translate_errors
from training.runtime.errors import RankLostError, UserError

GLOO = tf.errors.UnknownError(None, None, "[gloo/transport] Connection closed by peer [10.0.0.2]")
HOROVOD = type("HorovodInternalError", (RuntimeError,), {})("gone")
READ = tf.errors.DataLossError(None, None, "Read error in day_3.bin at byte 160")
FAILED_OP = tf.errors.InvalidArgumentError(
    None, None, "{{function_node __inference_f_1}} table 2: id 7 [[{{node read}}]]\nmore"
)


@pytest.mark.parametrize(
    ("error", "size", "kind", "start", "end"),
    [
        (GLOO, 2, RankLostError, "rank 1 ", GLOO.message),
        (HOROVOD, 2, RankLostError, "rank 1 ", "gone"),
        (READ, 1, UserError, READ.message, ""),
        (READ, 2, UserError, READ.message, ""),
        (FAILED_OP, 1, UserError, "table 2", "id 7"),
        (MemoryError("Unable to allocate 9 TiB"), 2, UserError, "rank 1 ", "9 TiB"),
    ],
)
def test_translated_errors_keep_their_message(error, size, kind, start, end):
    with pytest.raises(kind) as caught, translate_errors(1, size):
        raise error
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)


@pytest.mark.parametrize(("error", "size"), [(GLOO, 1), (ZeroDivisionError(), 2)])
def test_other_errors_pass_unchanged(error, size):
    with pytest.raises(type(error)), translate_errors(0, size):
        raise error
