"""Pieces of work shared out among actors, some of which may die or never come: no piece waits for these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

Piece = Callable[[Any], Any]  # an actor's call for a piece of work: `lambda actor: actor.run.remote(…)`


class ActorLostError(Exception):
    """A piece whose actors died too often, or no actor is left."""


def run_with_retries(actors: Sequence[Any], pieces: Sequence[Piece], *, tries: int) -> list[Any]:
    """The results, in the order of the pieces.

    A piece goes to an actor that has answered, never to one that waits for a place: when a machine is gone, its actors
    are started again where there is room, perhaps nowhere. An actor needs a method `ready`, and restarts of its own.

    Raises `ActorLostError`, and what a piece raises (`ray.exceptions.RayTaskError`).
    """
    import ray
    from ray.exceptions import RayActorError

    waiting = deque(enumerate(pieces))
    results: dict[int, Any] = {}
    deaths = [0] * len(pieces)
    coming = {_ask(actor): actor for actor in actors}
    idle: list[Any] = []
    working: dict[Any, tuple[Any, int]] = {}
    while len(results) < len(pieces):
        while idle and waiting:
            actor, (number, piece) = idle.pop(), waiting.popleft()
            working[piece(actor)] = (actor, number)
        if not (coming or working):
            raise ActorLostError("no worker is left")
        (reference,), _ = ray.wait([*working, *coming], num_returns=1)
        if reference in coming:
            actor = coming.pop(reference)
            if _answered(reference):
                idle.append(actor)
            continue
        actor, number = working.pop(reference)
        try:
            results[number] = ray.get(reference)
            idle.append(actor)
        except RayActorError as error:
            deaths[number] += 1
            if deaths[number] > tries:
                raise ActorLostError(str(error)) from error
            waiting.appendleft((number, pieces[number]))
            coming[_ask(actor)] = actor
    return [results[number] for number in range(len(pieces))]


def _ask(actor: Any) -> Any:
    """Resolves when the actor is there, however long it takes to be started (again)."""
    return actor.ready.options(max_task_retries=-1).remote()


def _answered(reference: Any) -> bool:
    import ray
    from ray.exceptions import RayActorError

    try:
        ray.get(reference)
    except RayActorError:
        return False  # it will not be started any more
    return True
