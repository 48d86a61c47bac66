"""Adapts matplotlib's SVG to an HTML page: unique ids, CSS variables for colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from training.telemetry.report import palette

_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font: ([\d.]+)px [^;]*")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


def inline(text: str, prefix: str, title: str) -> str:
    """Returns an SVG document as an element of an HTML page.

    Removes namespaces, metadata, size and font family; replaces palette colours by CSS variables;
    prepends `prefix` to each id. `title` becomes the accessible name.
    """
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child.tag) in ("metadata", "style"):
                parent.remove(child)
    names = {light: f"var({name})" for light, name in palette.variables().items()}
    for element in root.iter():
        element.tag = _bare(element.tag)
        attributes = {_bare(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        for name, value in attributes.items():
            if name == "id":
                value = prefix + value
            elif name == "href":
                value = "#" + prefix + value[1:]
            elif name in ("style", "clip-path", "fill", "stroke"):
                value = _FONT.sub(r"font-size: \1px", value)
                value = _REFERENCE.sub(rf"url(#{prefix}\1)", value)
                value = _COLOUR.sub(lambda m: names.get(m[0], m[0]), value)
            element.set(name, value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", title)
    # HTML parsers do not accept self-closing tags everywhere.
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _bare(name: str) -> str:
    return name.rpartition("}")[2]
