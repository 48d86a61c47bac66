"""The recorded signatures of SOK that the project's calls must match, and a reader for others.

sok_signatures.json records them from the source of merlin-sok 2.1.0.
"""

import ast
import inspect
import json
import pathlib
import threading

TABLE = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())

_PARSER = threading.Lock()


def signature(name):
    """Returns the recorded `inspect.Signature`; defaults are source text."""
    arguments = TABLE["functions"][name]["arguments"]
    # Python 3.11's parser shares one depth counter among threads and may fail if two parse.
    with _PARSER:
        node = ast.parse(f"def f({arguments}): pass").body[0].args
    kind = inspect.Parameter
    required = len(node.args) - len(node.defaults)
    parameters = [
        kind(
            argument.arg,
            kind.POSITIONAL_OR_KEYWORD,
            default=kind.empty if i < required else ast.unparse(node.defaults[i - required]),
        )
        for i, argument in enumerate(node.args)
    ]
    if node.vararg:
        parameters.append(kind(node.vararg.arg, kind.VAR_POSITIONAL))
    if node.kwarg:
        parameters.append(kind(node.kwarg.arg, kind.VAR_KEYWORD))
    assert not node.kwonlyargs and not node.posonlyargs
    return inspect.Signature(parameters)


def arguments_in_source(root, file, definition):
    """Returns the source text of a function's arguments in an unpacked source or install."""
    body = ast.parse(pathlib.Path(root, file).read_text()).body
    node = None
    for part in definition.split("."):
        node = next(item for item in body if getattr(item, "name", None) == part)
        body = node.body
    return ast.unparse(node.args)
