import pytest
import tensorflow as tf

from training.runtime.error_translation import translate_errors
from training.runtime.errors import RankLostError, UserError

READ_ERROR = tf.errors.DataLossError(None, None, "Read error in day_3.bin at byte 160")
GLOO = tf.errors.UnknownError(None, None, "[gloo/transport] Connection closed by peer [10.0.0.2]")


def test_among_several_ranks_it_is_another_that_is_lost():
    with pytest.raises(RankLostError, match=r"^rank 1 lost the connection to another rank: "), \
            translate_errors(1, 2):  # fmt: skip
        raise GLOO


@pytest.mark.parametrize("size", [1, 2])
def test_a_bad_file_is_no_lost_rank(size):
    text = "^Read error in day_3.bin at byte 160$"
    with pytest.raises(UserError, match=text), translate_errors(0, size):
        raise READ_ERROR


def test_one_rank_alone_has_none_to_lose():
    with pytest.raises(tf.errors.UnknownError), translate_errors(0, 1):
        raise GLOO


def test_a_failed_ops_place_is_left_out():
    error = tf.errors.InvalidArgumentError(
        None, None, "{{function_node __inference_f_1}} table 2: id 7 [[{{node read}}]]\nmore"
    )
    with pytest.raises(UserError, match=r"^table 2: id 7$"), translate_errors(0, 1):
        raise error


def test_a_lost_rank_met_outside_tensorflow():
    kind = type("HorovodInternalError", (RuntimeError,), {})
    with pytest.raises(RankLostError, match="gone"), translate_errors(0, 2):
        raise kind("gone")


def test_too_little_memory_is_the_users():
    text = "^rank 1 has not enough memory: Unable to allocate 9 TiB$"
    with pytest.raises(UserError, match=text), translate_errors(1, 2):
        raise MemoryError("Unable to allocate 9 TiB")


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), translate_errors(0, 2):
        raise ZeroDivisionError
