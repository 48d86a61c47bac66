"""JSON values with one part replaced or missing, for readers that must not stumble over any."""

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
    """Yields the path of every part of a JSON value: keys and indices."""
    if where:
        yield where
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = list(enumerate(value))[:2]  # the others are alike
    else:
        parts = ()
    for key, part in parts:
        yield from places(part, (*where, key))


def variants(value):
    """Yields (what was done, a copy of the value with one part replaced or left out)."""
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


#: Texts that are no JSON value of a sensible size.
TEXTS = [
    b"", b"{", b"nothing", b"\xff\xfe{}", b"NaN", b'{"a": 1, "a": 2}', b"[" * 100_000,
    b'{"a":' * 100_000, b'["' + b"x" * 10_000_000 + b'"]', b"[" + b"9" * 5000 + b"]",
    b'{"a": "\\ud800"}',
]  # fmt: skip
