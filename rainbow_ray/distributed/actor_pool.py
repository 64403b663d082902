"""Distribution of calls to a pool of actors, some of which may die or never start."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

Piece = Callable[[Any], Any]  # a call of an actor: `lambda actor: actor.run.remote(…)`


class ActorLostError(Exception):
    """The actors of one call died too often, or no actor is left."""


def run_with_retries(actors: Sequence[Any], pieces: Sequence[Piece], *, tries: int) -> list[Any]:
    """Run calls on a pool of actors, and repeat those whose actor died.

    A call is given to an actor that has answered, never to one that waits for resources: when a node is lost, Ray
    restarts its actors where there is room, perhaps nowhere.

    Args:
        actors: Actors with a method `ready` and with `max_restarts`.
        pieces: Calls, each of which any actor can run.
        tries: How many times the actor of one call may die.

    Returns:
        The results, in the order of the calls.

    Raises:
        ActorLostError: The actors of one call died more often, or no actor is left.
        ray.exceptions.RayTaskError: A call raised an exception.
    """
    import ray
    from ray.exceptions import RayActorError

    waiting = deque(enumerate(pieces))
    results: dict[int, Any] = {}
    n_deaths = [0] * len(pieces)
    starting = {_when_ready(actor): actor for actor in actors}
    idle: list[Any] = []
    working: dict[Any, tuple[Any, int]] = {}
    while len(results) < len(pieces):
        while idle and waiting:
            actor, (number, piece) = idle.pop(), waiting.popleft()
            working[piece(actor)] = (actor, number)
        if not (starting or working):
            raise ActorLostError("no worker is left")
        (reference,), _ = ray.wait([*working, *starting], num_returns=1)
        if reference in starting:
            actor = starting.pop(reference)
            if _is_alive(reference):
                idle.append(actor)
            continue
        actor, number = working.pop(reference)
        try:
            results[number] = ray.get(reference)
            idle.append(actor)
        except RayActorError as error:
            n_deaths[number] += 1
            if n_deaths[number] > tries:
                raise ActorLostError(str(error)) from error
            waiting.appendleft((number, pieces[number]))
            starting[_when_ready(actor)] = actor
    return [results[number] for number in range(len(pieces))]


def _when_ready(actor: Any) -> Any:
    """Return a reference that resolves when the actor has started (again), however long that takes."""
    return actor.ready.options(max_task_retries=-1).remote()


def _is_alive(reference: Any) -> bool:
    import ray
    from ray.exceptions import RayActorError

    try:
        ray.get(reference)
    except RayActorError:
        return False  # Ray does not restart it any more
    return True
