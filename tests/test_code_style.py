"""Public names have sectioned docstrings, functions have at most 60 lines, and files at most 400."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
FILES = sorted(path for package in ("rainbow_ray", "cluster", "tune_spaces") for path in (ROOT / package).rglob("*.py"))
# one documented interface, which would be harder to read in parts
LONG_FILES = {"rainbow_ray/tasks/base.py"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_public(name: str) -> bool:
    return not name.startswith("_")


def decorators(node: Function | ast.ClassDef) -> list[str]:
    return [ast.unparse(decorator) for decorator in node.decorator_list]


def definitions(node: ast.AST) -> Iterator[Function | ast.ClassDef]:
    """Yield public functions and classes of a module, and public methods of public classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(child.name):
            yield child
        elif isinstance(child, ast.ClassDef) and is_public(child.name):
            yield child
            yield from definitions(child)


def missing_sections(function: Function) -> list[str]:
    """Return the sections that the docstring of a function lacks; overrides are documented by what they override."""
    decorator_names = decorators(function)
    if any(decorator.endswith(("override", "overload", ".setter")) for decorator in decorator_names):
        return []
    docstring = ast.get_docstring(function)
    if docstring is None:
        return ["docstring"]
    if any("property" in decorator for decorator in decorator_names):
        return []
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    has_parameters = bool({*names} - {"self", "cls"}) or arguments.vararg is not None or arguments.kwarg is not None
    returns = function.returns is not None and ast.unparse(function.returns) not in ("None", "NoReturn")
    raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(function))
    required = {"Args:": has_parameters, "(Returns|Yields):": returns, "Raises:": raises}
    return [section for section, needed in required.items()
            if needed and not re.search(rf"^\s*{section}", docstring, re.MULTILINE)]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_are_documented_and_nothing_is_too_long(path):
    text = path.read_text()
    tree = ast.parse(text)
    problems = []
    if len(text.splitlines()) > MAX_FILE_LINES and str(path.relative_to(ROOT)) not in LONG_FILES:
        problems.append(f"{len(text.splitlines())} lines")
    for node in definitions(tree):
        if isinstance(node, ast.ClassDef):
            if ast.get_docstring(node) is None:
                problems.append(f"{node.name}: no docstring")
            continue
        problems += [f"{node.name} (line {node.lineno}): no {section}" for section in missing_sections(node)]
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                problems.append(f"{function.name} (line {function.lineno}): {length} lines")
    assert problems == []
