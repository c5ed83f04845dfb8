"""Expressions in text, such as "(x + y) * z": read by their syntax tree, from a list of what is allowed, and never evaluated as code."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.words import list_some

MAX_CHARACTERS = 2000  # of an expression
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
}  # fmt: skip
SINGLE: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "relu": torch.relu, "abs": torch.abs,
}  # fmt: skip
SEVERAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"max": torch.maximum, "min": torch.minimum}
FUNCTIONS = (*SINGLE, *SEVERAL)
Rename = Callable[[Tensor, str], None]  # is told of each tensor that is computed, and the text it was computed from


def parse_expression(text: str, variables: tuple[str, ...]) -> Callable[[Mapping[str, Tensor], Rename], Tensor]:
    """Read an expression of these variables; the function it returns computes it from their values.

    It consists of numbers, variables, + - * / **, parentheses, and the functions of FUNCTIONS.

    Raises:
        UsageError: it does not read, it has something else in it, or its variables are others.
    """
    try:
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"Expected an expression of at most {MAX_CHARACTERS:,} characters, received {len(text):,}.")
        tree = ast.parse(text.strip(), mode="eval").body
        used = list(dict.fromkeys(_check(tree)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f'"{text}" does not read as an expression: expected a form like "(x + y) * z".') from error
    if unset := [name for name in used if name not in variables]:
        options = " ".join(f"--set {name}=1" for name in unset)
        raise UsageError(f'Expected a value for each variable of "{text}", received none for {list_some(unset)}: give {options}.')
    if unused := [name for name in variables if name not in used]:
        raise UsageError(
            f'Expected values of the variables of "{text}", {list_some(used) or "which has none"}, received {list_some(unused)}.'
        )
    return functools.partial(_compute_checked, tree, text)


def _check(node: ast.expr) -> list[str]:
    """The variables of an expression, in order, with repetitions."""
    match node:
        case ast.Constant(float() | int() as number) if not isinstance(number, bool):
            return []
        case ast.Name(name):
            return [name]
        case ast.UnaryOp(ast.USub() | ast.UAdd(), inner):
            return _check(inner)
        case ast.BinOp(left, operation, right) if type(operation) in BINARY:
            return _check(left) + _check(right)
        case ast.Call(ast.Name(name), arguments, []):
            if name not in FUNCTIONS:
                raise UsageError(unknown_name("function", name, FUNCTIONS))
            if len(arguments) != 1 if name in SINGLE else len(arguments) < 2:
                expected = "one argument" if name in SINGLE else "two or more"
                raise UsageError(f'Expected {expected} for {name}, received {len(arguments)} in "{ast.unparse(node)}".')
            return [name for argument in arguments for name in _check(argument)]
    raise UsageError(
        f'Expected numbers, variables, + - * / **, parentheses and the functions {", ".join(FUNCTIONS)}, found "{ast.unparse(node)}".'
    )


def _compute_checked(tree: ast.expr, text: str, values: Mapping[str, Tensor], rename: Rename) -> Tensor:
    try:
        return _to_tensor(_compute(tree, values, rename))
    except (OverflowError, ZeroDivisionError) as error:
        raise UsageError(f'"{text}" has a part without variables that is no finite number: {error}.') from error


def _compute(node: ast.expr, values: Mapping[str, Tensor], rename: Rename) -> Any:
    """The value of a part of an expression: a tensor, or a float where it has no variables."""
    result: Any = None
    match node:
        case ast.Constant(number):
            return float(number)  # type: ignore[arg-type]
        case ast.Name(name):
            return values[name]
        case ast.UnaryOp(sign, inner):
            result = _compute(inner, values, rename)
            if isinstance(sign, ast.UAdd):
                return result
            result = -result
        case ast.BinOp(left, operation, right):
            result = BINARY[type(operation)](_compute(left, values, rename), _compute(right, values, rename))
        case ast.Call(ast.Name(name), arguments):
            computed = [_to_tensor(_compute(argument, values, rename)) for argument in arguments]
            result = SINGLE[name](computed[0]) if name in SINGLE else functools.reduce(SEVERAL[name], computed)
    if isinstance(result, complex):
        raise ZeroDivisionError(f"{ast.unparse(node)} is complex")
    if isinstance(result, Tensor):
        rename(result, ast.unparse(node))
    return result


def _to_tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)
