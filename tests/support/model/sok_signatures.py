"""The signatures of SOK that the project's calls are written against, and how to read others.

sok_signatures.json records them from the sources of merlin-sok 2.1.0 and 1.3.0.
"""

import ast
import inspect
import json
import pathlib
import threading

TABLE = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())

_PARSER = threading.Lock()


def signature(api, name):
    """Returns the recorded `inspect.Signature`; defaults are source text."""
    arguments = TABLE[api]["functions"][name]["arguments"]
    # Python 3.11's parser counts its depth for all threads at once and may fail in two of them.
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
    """Returns the source text of a function's arguments in an unpacked source or an install."""
    body = ast.parse(pathlib.Path(root, file).read_text()).body
    node = None
    for part in definition.split("."):
        node = next(item for item in body if getattr(item, "name", None) == part)
        body = node.body
    return ast.unparse(node.args)
