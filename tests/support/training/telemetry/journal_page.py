"""Reads docs/journal.md's table of events and fields."""

import re

from tests.support.paths import ROOT


def described_events():
    """Returns {event: ({fields that are always present}, {fields marked *})}."""
    found = {}
    for event, field, star in re.findall(
        r"^\| `(\w+)` \| (?:`(\w+)`( \*)?)? ?\|",
        (ROOT / "docs" / "journal.md").read_text(),
        re.MULTILINE,
    ):
        always, sometimes = found.setdefault(event, (set(), set()))
        if field:
            (sometimes if star else always).add(field)
    return found
