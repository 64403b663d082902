"""`stack.json`: the stacked ensembles of a model's fits, as plain JSON. Needs numpy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rainbow_ray.stacking.stack import Stack

STACK = "stack.json"


def write_stacks(folder: Path, stacks: Sequence[Stack]) -> None:
    """Write the stacks of a model's fits, if there are any.

    Args:
        folder: Folder of the model, which is moved into place afterwards.
        stacks: The stack of each fit.
    """
    if stacks:
        document = [stack.to_json() for stack in stacks]
        (folder / STACK).write_text(json.dumps(document) + "\n", encoding="utf-8")


def read_stacks(folder: Path) -> list[Stack]:
    """Read the stacks of a model's fits.

    Args:
        folder: Folder of the model, whose files were checked.

    Returns:
        The stack of each fit; empty where the scores are those of the neural network alone.

    Raises:
        ValueError: The file is damaged.
    """
    file = folder / STACK
    if not file.exists():
        return []
    try:
        return [Stack.from_json(document) for document in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{STACK} is damaged ({type(error).__name__}: {error})") from error
