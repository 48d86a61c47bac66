"""JSON values with one part replaced or missing, to test readers of damaged files."""

import copy

MISSING = object()
NESTED = []
for _ in range(60):
    NESTED = [NESTED]
REPLACEMENTS = [
    None, True, -1, 0, 3.5, 2**63, 10**300, 1e300, "", "text", "x" * 70_000, [], [1, 2], [[]], {},
    {"a": None}, NESTED, MISSING,
]  # fmt: skip


def places(value, where=()):
    """Yields the path (keys and indices) of every part of a JSON value."""
    if where:
        yield where
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = list(enumerate(value))[:2]  # the other items have the same form
    else:
        parts = ()
    for key, part in parts:
        yield from places(part, (*where, key))


def variants(value):
    """Yields (description of the change, a copy of the value with one part changed)."""
    for where in places(value):
        for new in REPLACEMENTS:
            changed = copy.deepcopy(value)
            holder = changed
            for key in where[:-1]:
                holder = holder[key]
            if new is MISSING:
                del holder[where[-1]]
            elif type(new) is type(holder[where[-1]]) and new == holder[where[-1]]:
                continue
            else:
                holder[where[-1]] = copy.deepcopy(new)
            yield f"{'.'.join(map(str, where))} = {str(new)[:30]}", changed


#: Texts that are not JSON, or too large.
TEXTS = [
    b"", b"{", b"nothing", b"\xff\xfe{}", b"NaN", b'{"a": 1, "a": 2}', b"[" * 100_000,
    b'{"a":' * 100_000, b'["' + b"x" * 10_000_000 + b'"]', b"[" + b"9" * 5000 + b"]",
    b'{"a": "\\ud800"}',
]  # fmt: skip
