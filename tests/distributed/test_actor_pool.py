"""Work for actors that may die or never come, on a real Ray with fewer CPUs than they want."""

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
        raise ValueError("as it should")


@pytest.fixture
def make(ray):
    made = []

    def make(number):
        actors = [ray.remote(num_cpus=1, max_restarts=3)(Worker).remote() for _ in range(number)]
        made.extend(actors)
        return actors

    yield make
    for actor in made:
        ray.kill(actor)


def squares(number):
    return [lambda actor, i=i: actor.square.remote(i) for i in range(number)]


def test_results_come_in_order(make):
    assert run_with_retries(make(1), squares(5), tries=3) == [0, 1, 4, 9, 16]


def test_no_piece_waits_for_an_actor_that_has_no_place(make):
    assert run_with_retries(make(3), squares(4), tries=3) == [0, 1, 4, 9]


def test_a_piece_whose_actor_died_is_done_again(make, tmp_path):
    pieces = [lambda actor: actor.die_once.remote(tmp_path / "mark"), *squares(2)]
    assert run_with_retries(make(2), pieces, tries=3) == ["done", 0, 1]


def test_what_kills_each_actor_is_given_up(make):
    with pytest.raises(ActorLostError):
        run_with_retries(make(1), [lambda actor: actor.die.remote()], tries=2)


def test_an_error_of_a_piece_comes_out(make, ray):
    with pytest.raises(ray.exceptions.RayTaskError, match="as it should"):
        run_with_retries(make(1), [lambda actor: actor.fail.remote(), *squares(1)], tries=2)
