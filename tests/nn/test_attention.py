"""The transformer block: masks, and attention weights."""

from __future__ import annotations

import torch

from rainbow_ray.nn.attention import TransformerBlock


def test_masked_keys_have_no_effect():
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 0.0).eval()
    hidden, context = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    changed = context.clone()
    changed[0, 2:] = 99.0
    torch.testing.assert_close(block(hidden, context, mask), block(hidden, changed, mask))


def test_attention_weights_of_each_query_sum_to_one_and_are_zero_for_masked_keys():
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 0.0)
    mask = torch.tensor([[1, 1, 0]]).bool()
    weights = block.weights(torch.randn(1, 4, 8), torch.randn(1, 3, 8), mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4))
    assert (weights[..., 2] == 0).all()
