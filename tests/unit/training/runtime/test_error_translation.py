"""Errors of TensorFlow, Horovod and NumPy become one-line errors."""

import pytest
import tensorflow as tf

from training.runtime.error_translation import translate_errors
from training.runtime.errors import RankLostError, UserError

READ_ERROR = tf.errors.DataLossError(None, None, "Read error in day_3.bin at byte 160")
GLOO = tf.errors.UnknownError(None, None, "[gloo/transport] Connection closed by peer [10.0.0.2]")


def test_a_failed_collective_of_several_ranks_is_a_lost_rank():
    with pytest.raises(RankLostError) as caught, translate_errors(1, 2):
        raise GLOO
    assert str(caught.value).startswith("rank 1 ")
    assert str(caught.value).endswith(GLOO.message)


def test_a_single_rank_loses_no_other():
    with pytest.raises(tf.errors.UnknownError), translate_errors(0, 1):
        raise GLOO


@pytest.mark.parametrize("size", [1, 2])
def test_a_read_error_is_not_a_lost_rank(size):
    with pytest.raises(UserError) as caught, translate_errors(0, size):
        raise READ_ERROR
    assert str(caught.value) == READ_ERROR.message


def test_the_location_of_a_failed_op_is_removed():
    error = tf.errors.InvalidArgumentError(
        None, None, "{{function_node __inference_f_1}} table 2: id 7 [[{{node read}}]]\nmore"
    )
    with pytest.raises(UserError) as caught, translate_errors(0, 1):
        raise error
    assert str(caught.value) == "table 2: id 7"


def test_horovods_own_error_is_a_lost_rank():
    kind = type("HorovodInternalError", (RuntimeError,), {})
    with pytest.raises(RankLostError) as caught, translate_errors(0, 2):
        raise kind("gone")
    assert str(caught.value).endswith("gone")


def test_a_memory_error_names_the_rank_and_the_size():
    with pytest.raises(UserError) as caught, translate_errors(1, 2):
        raise MemoryError("Unable to allocate 9 TiB")
    assert str(caught.value).startswith("rank 1 ")
    assert "9 TiB" in str(caught.value)


def test_other_errors_pass_unchanged():
    with pytest.raises(ZeroDivisionError), translate_errors(0, 2):
        raise ZeroDivisionError
