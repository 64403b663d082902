"""Tasks of actors that may die or never start, on a real Ray with fewer CPUs than the actors request."""

from __future__ import annotations

import os

import pytest

from rainbow_ray.distributed.actor_pool import ActorLostError, run_with_retries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


class Worker:
    def ready(self):
        pass

    def square(self, number):
        return number * number

    def die_once(self, mark):
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return "done"

    def die(self):
        os._exit(1)

    def fail(self):
        raise ValueError("expected failure")


@pytest.fixture
def make_actors(ray):
    started = []

    def make(number):
        actors = [ray.remote(num_cpus=1, max_restarts=3)(Worker).remote() for _ in range(number)]
        started.extend(actors)
        return actors

    yield make
    for actor in started:
        ray.kill(actor)


def square_tasks(number):
    return [lambda actor, i=i: actor.square.remote(i) for i in range(number)]


def test_results_come_in_order(make_actors):
    assert run_with_retries(make_actors(1), square_tasks(5), tries=3) == [0, 1, 4, 9, 16]


def test_no_task_waits_for_an_actor_that_cannot_start(make_actors):
    assert run_with_retries(make_actors(3), square_tasks(4), tries=3) == [0, 1, 4, 9]


def test_the_task_of_a_lost_actor_is_retried(make_actors, tmp_path):
    tasks = [lambda actor: actor.die_once.remote(tmp_path / "mark"), *square_tasks(2)]
    assert run_with_retries(make_actors(2), tasks, tries=3) == ["done", 0, 1]


def test_a_task_that_kills_each_actor_fails_after_its_tries(make_actors):
    with pytest.raises(ActorLostError):
        run_with_retries(make_actors(1), [lambda actor: actor.die.remote()], tries=2)


def test_the_error_of_a_task_is_raised(make_actors, ray):
    with pytest.raises(ray.exceptions.RayTaskError, match="expected failure"):
        run_with_retries(make_actors(1), [lambda actor: actor.fail.remote(), *square_tasks(1)], tries=2)
