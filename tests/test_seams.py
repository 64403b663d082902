"""The package knows a task or a modality only in its own file and its row of a registry; other code asks it.

Names in docstrings, comments and messages are not looked at: the tests read string constants that equal a name, and the
names of classes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rainbow_ray import tasks
from rainbow_ray.modalities import spec
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import task_names

PACKAGE = Path(__file__).parents[1] / "rainbow_ray"
TASK_FOLDERS = ("tasks/",)
MODALITY_FOLDERS = ("modalities/", "setup/", "data/demo/")
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
# names that stay, by file, with the reason
ALLOWED_TASK_NAMES = {
    "config/phases.py": (
        {"binary", "multiclass", "regression", "segmentation"},
        "a phase is a row that names a task, as users name one; `config` cannot import the registry",
    ),
    "baselines/model_family.py": (
        {"binary", "multiclass", "multilabel", "regression"},
        "scikit-learn's models for each `TargetType`, of which a new task has one",
    ),
    "checks/label_leakage.py": ({"binary"}, "a type of Arrow"),
    "exporters/transformers.py": ({"regression"}, "`problem_type` of transformers"),
}
ALLOWED_MODALITY_NAMES = {
    "config/phases.py": ({"audio", "midi"}, "a phase is a row that names modalities, as users name them"),
}
# a column of tables has the same name, so only comparisons with it are looked at
TEXT = "text"
MODALITY_NAMES = set(spec.BUILT_IN) - {TEXT}


def outside(folders: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the nodes of all files outside some folders, with the file."""
    for path, tree in TREES.items():
        if not path.startswith(folders):
            yield from ((path, node) for node in ast.walk(tree))


def places_of_names(names: set[str], folders: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Return lines outside some folders with a string that is one of the names, by file and name."""
    found: dict[str, dict[str, int]] = {}
    for path, node in outside(folders):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names:
            found.setdefault(path, {})[node.value] = node.lineno
    return found


def task_classes() -> set[str]:
    """Return the names of all classes of tasks in `tasks/`, abstract ones included."""
    modules = [
        importlib.import_module(f"{tasks.__name__}.{module.name}") for module in pkgutil.iter_modules(tasks.__path__)
    ]
    return {
        name for module in modules for name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Task)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "folders", "allowed"),
    [
        (set(task_names()), TASK_FOLDERS, ALLOWED_TASK_NAMES),
        (MODALITY_NAMES, MODALITY_FOLDERS, ALLOWED_MODALITY_NAMES),
    ],
    ids=["tasks", "modalities"],
)
def test_names_are_known_in_their_folders_only(names, folders, allowed):
    found = places_of_names(names, folders)
    problems = [
        f"{path}, line {line}: {name!r}"
        for path, lines in found.items()
        for name, line in lines.items()
        if name not in allowed.get(path, ((), ""))[0]
    ]
    assert problems == [], "ask the task or the modality, or add the name to the allowed ones with a reason"
    unused = {path: names - found.get(path, {}).keys() for path, (names, _) in allowed.items()}
    assert not any(unused.values()), f"allowed names that are not there: {unused}"


def test_no_code_compares_a_modality_with_text():
    problems = []
    for path, node in outside(MODALITY_FOLDERS):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            others = " ".join(ast.unparse(operand) for operand in operands if not isinstance(operand, ast.Constant))
            has_text = any(isinstance(part, ast.Constant) and part.value == TEXT for part in ast.walk(node))
            if has_text and ("modalit" in others or ".name" in others):
                problems.append(f"{path}, line {node.lineno}: {ast.unparse(node)}")
    assert problems == [], "see modalities/selection.py"


def test_no_code_tests_the_class_of_a_task():
    classes = task_classes()
    assert {"Task", "Binary", "Segmentation", "SegmentTask"} <= classes
    problems = []
    for path, node in outside(TASK_FOLDERS):
        names: set[str] = set()
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            names = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            names |= {part.attr for part in ast.walk(node.args[1]) if isinstance(part, ast.Attribute)}
        elif isinstance(node, ast.ImportFrom):  # what is not imported cannot be compared in another way either
            names = {alias.name for alias in node.names} - {"Task"}
        problems += [f"{path}, line {node.lineno}: {name}" for name in sorted(names & classes)]
    assert problems == [], "an attribute of `Task` says what a task is like"


def test_the_scan_finds_what_it_looks_for(monkeypatch):
    source = """
from rainbow_ray.tasks.binary import Binary

def f(task, modalities):
    return isinstance(task, Task | list) or task.name == "regression" or modalities[0] in ("audio", "text")
"""
    monkeypatch.setitem(TREES, "new.py", ast.parse(source))
    for test, arguments in (
        (test_names_are_known_in_their_folders_only, (set(task_names()), TASK_FOLDERS, ALLOWED_TASK_NAMES)),
        (test_names_are_known_in_their_folders_only, (MODALITY_NAMES, MODALITY_FOLDERS, ALLOWED_MODALITY_NAMES)),
        (test_no_code_compares_a_modality_with_text, ()),
        (test_no_code_tests_the_class_of_a_task, ()),
    ):
        with pytest.raises(AssertionError, match=r"new\.py, line"):
            test(*arguments)
