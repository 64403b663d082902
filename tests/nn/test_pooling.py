"""Pooling against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from rainbow_ray.nn.pooling import Pooling

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [9.0, 9.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cls", [[1.0, 2.0], [5.0, 6.0]]),
        ("mean", [[2.0, -1.0], [7.0, 5.0]]),
        ("max", [[3.0, 2.0], [9.0, 8.0]]),
        ("attention", [[2.0, -1.0], [7.0, 5.0]]),  # initial weights are equal
    ],
)
def test_pooling_reduces_tokens_inside_the_mask(kind, expected):
    torch.testing.assert_close(Pooling(kind, 2)(HIDDEN, MASK), torch.tensor(expected))


def test_attention_pooling_ignores_padding():
    pooling = Pooling("attention", 2)
    with torch.no_grad():
        pooling.query.weight.copy_(torch.tensor([[100.0, 0.0]]))
    torch.testing.assert_close(pooling(HIDDEN, MASK), torch.tensor([[3.0, -4.0], [9.0, 1.0]]))
