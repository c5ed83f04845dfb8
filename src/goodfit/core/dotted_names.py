"""The dotted names in the text of a part, which name code of other packages, and the arguments they are called with."""

from __future__ import annotations

import ast
import re

from goodfit.core.errors import UsageError

DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
MAX_TEXT = 20_000  # characters of the text of a part


def dotted_names(text: str) -> list[str]:
    """The dotted names in the text of a part, such as torch.optim.Adadelta in "sam(torch.optim.Adadelta(lr=0.5))"."""
    return list(dict.fromkeys(map(name_of_call, dotted_calls(text))))


def dotted_calls(text: str) -> list[str]:
    """The dotted names in the text of a part with their arguments, as parts are spelled: "torch.optim.Adadelta(lr=0.5)".

    Raises:
        UsageError: the text is too long for a part.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f'Expected the text of a part to have at most {MAX_TEXT:,} characters, found {len(text):,}: "{text[:60]} ...".')
    try:
        nodes: list[ast.AST] = [ast.parse(text.strip(), mode="eval")]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # which makes no part
    found = []
    while nodes:
        node = nodes.pop()
        call = node if isinstance(node, ast.Call) else None
        target, names = call.func if call else node, list[str]()
        while isinstance(target, ast.Attribute):
            names.append(target.attr)
            target = target.value
        if not names:
            nodes += ast.iter_child_nodes(node)
            continue
        nodes += [target, *([*call.args, *call.keywords] if call else [])]
        if isinstance(target, ast.Name):
            found.append(f"{'.'.join([target.id, *reversed(names)])}({_spell_arguments(call)})")
    return list(dict.fromkeys(found))


def _spell_arguments(call: ast.Call | None) -> str:
    positional = [_spell_value(node) for node in call.args] if call else []
    named = [f"{keyword.arg}={_spell_value(keyword.value)}" for keyword in call.keywords] if call else []
    return ", ".join([*positional, *named])


def _spell_value(node: ast.expr) -> str:
    """A value as `core.parts.spell` writes it: a list as a tuple, a bare word as text."""
    match node:
        case ast.Tuple(elements) | ast.List(elements):
            inner = ", ".join(map(_spell_value, elements))
            return f"({inner},)" if len(elements) == 1 else f"({inner})"
        case ast.Name(word):
            return repr(word)
    try:
        return repr(ast.literal_eval(node))
    except (ValueError, TypeError, MemoryError, RecursionError):  # no value of a part
        return type(node).__name__


def name_of_call(call: str) -> str:
    """The dotted name of what a call calls, as `dotted_calls` spells it."""
    return call.partition("(")[0]
