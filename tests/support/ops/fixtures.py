import pytest

from ops.cpu import instruction_set


@pytest.fixture(params=instruction_set.INSTRUCTION_SETS)
def isa(request):
    """Selects each instruction set in turn; skips those that this processor or build lacks."""
    if request.param not in instruction_set.available():
        pytest.skip(f"this processor or build lacks {request.param}")
    before = instruction_set.current()
    instruction_set.select(request.param)
    yield request.param
    instruction_set.select(before)
