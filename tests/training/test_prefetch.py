"""Batches that are prepared one ahead: order, errors in their turn, and the step of batches that were not."""

from __future__ import annotations

import threading

import pytest
import torch

from rainbow_ray.training.prefetch import prepare_ahead

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch):
    """Let torch answer as with a GPU; nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)


def test_each_item_is_prepared_while_the_one_before_it_is_in_use():
    started = {number: threading.Event() for number in range(4)}

    def prepare(number: int) -> str:
        started[number].set()
        return f"{number}, prepared"

    for number, prepared in enumerate(prepare_ahead(range(4), prepare, CUDA)):
        assert prepared == f"{number}, prepared"
        if number < 3:
            assert started[number + 1].wait(10)
        assert number + 2 not in started or not started[number + 2].is_set()


def test_errors_are_raised_in_their_turn():
    def prepare(number: int) -> int:
        if number == 1:
            raise ValueError("song 1 is damaged")
        return number

    items = prepare_ahead(range(3), prepare, CUDA)
    assert next(items) == 0
    with pytest.raises(ValueError, match="song 1"):
        next(items)
    assert list(prepare_ahead([], prepare, CUDA)) == []


def test_on_a_cpu_nothing_is_prepared():
    assert list(prepare_ahead(["a", "b"], len, torch.device("cpu"))) == ["a", "b"]
