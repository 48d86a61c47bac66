import pytest

from tests.dataset.hand_written import random_arrays


@pytest.fixture
def arrays():
    return random_arrays(997)
