import pytest

from ops.cpu import instruction_set


@pytest.fixture(params=instruction_set.INSTRUCTION_SETS)
def isa(request):
    """Each instruction set in turn; those that this processor lacks are skipped by name."""
    if request.param not in instruction_set.available():
        pytest.skip(f"this processor or build does not have {request.param}")
    before = instruction_set.current()
    instruction_set.select(request.param)
    yield request.param
    instruction_set.select(before)
