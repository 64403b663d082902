"""DeBERTa's attention with an additive bias: outputs and gradients of transformers' own, under the same names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model

from rainbow_ray.modalities.text.disentangled_attention import (
    BLOCK_LENGTHS,
    BiasAttention,
    distance_rows,
    relative_scores,
    use_bias_attention,
)

SHAPE: dict[str, Any] = {
    "vocab_size": 200, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48,
    "max_position_embeddings": 512, "relative_attention": True, "position_buckets": 64, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "position_biased_input": False,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def model_pair(**settings: Any) -> tuple[nn.Module, nn.Module]:
    """Return a model of transformers with large random weights, and its copy with our attention."""
    torch.manual_seed(1)
    original = DebertaV2Model(DebertaV2Config(**{**SHAPE, **settings})).train()
    for parameter in original.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    ours = copy.deepcopy(original)
    use_bias_attention(ours)
    return original, ours


def padded_batch(length: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.randint(3, 200, (batch, length)), torch.ones(batch, length, dtype=torch.long)
    for row in range(1, batch):
        mask[row, length - row * (length // (batch + 1)) :] = 0
    return ids, mask


def outputs_and_gradients(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the hidden states of tokens, and the gradients of a random projection of them."""
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden.device)
    torch.autograd.backward((hidden.float() * probe).sum())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    # The bias of keys changes no attention weight: its gradient is rounding alone.
    return {"hidden": hidden.detach(), **{n: g for n, g in gradients.items() if not n.endswith("key_proj.bias")}}


@pytest.mark.parametrize(
    ("length", "settings"),
    [
        (1, {}), (2, {}), (31, {}), (BLOCK_LENGTHS["cpu"], {}), (BLOCK_LENGTHS["cpu"] + 1, {}), (150, {}), (300, {}),
        (300, {"position_buckets": 16}), (130, {"position_buckets": -1}), (80, {"share_att_key": False}),
        (80, {"position_buckets": -1, "max_relative_positions": 20}),
        (60, {"position_buckets": 40, "max_relative_positions": 30}), (50, {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ],
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_transformers(length, settings):
    original, ours = model_pair(**settings)
    assert original.state_dict().keys() == ours.state_dict().keys()
    assert sum(isinstance(module, BiasAttention) for module in ours.modules()) == 2
    ids, mask = padded_batch(length)
    expected, actual = (outputs_and_gradients(model, ids, mask) for model in (original, ours))
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        scale = tensor.abs().max().clamp(min=1e-9)
        assert (actual[name] - tensor).abs().max() / scale < 1e-5, name


def test_bf16_is_as_close_to_fp32_as_with_transformers():
    original, ours = model_pair()
    ids, mask = padded_batch(100)
    with torch.no_grad():
        exact = original(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors = [
                (model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None] - exact).abs().mean()
                for model in (original, ours)
            ]
    assert errors[1] < 1.1 * errors[0]


def test_dropout_is_drawn_in_training_alone():
    _, ours = model_pair(attention_probs_dropout_prob=0.3, hidden_dropout_prob=0.3)
    ids, mask = padded_batch(20)
    with torch.no_grad():
        first, second = (ours(input_ids=ids, attention_mask=mask).last_hidden_state for _ in range(2))
        assert not torch.equal(first, second)
        ours.eval()
        first, second = (ours(input_ids=ids, attention_mask=mask).last_hidden_state for _ in range(2))
        assert torch.equal(first, second)


def test_attention_weights_are_those_of_transformers():
    original, ours = model_pair()
    ids, mask = padded_batch(20)
    with torch.no_grad():
        expected, actual = (
            model.eval()(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
            for model in (original, ours)
        )
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_of_distances_are_those_of_their_definition():
    length = BLOCK_LENGTHS["cpu"] + 7
    tokens, positions = torch.randn(2, 3, length, 4), torch.randn(3, 2 * length - 1, 4)
    i, j = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
    expected = torch.einsum("bhid,hijd->bhij", tokens, positions[:, length - 1 - (i - j)])
    torch.testing.assert_close(relative_scores(tokens, positions), expected)


def test_other_encoders_and_other_kinds_of_attention_stay_as_they_are():
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    names = [type(module) for module in bert.modules()]
    use_bias_attention(bert)
    assert [type(module) for module in bert.modules()] == names
    _, content_alone = model_pair(pos_att_type=["c2p"])
    assert not any(isinstance(module, BiasAttention) for module in content_alone.modules())


def test_an_exported_graph_holds_for_every_length():
    _, ours = model_pair()
    attention = next(module for module in ours.eval().modules() if isinstance(module, BiasAttention))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.rows = attention, ours.encoder.get_rel_embedding().detach()

        def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.attention(hidden, mask, rel_embeddings=self.rows)[0]

    wrapped = Wrapped()
    inputs = {length: (torch.randn(2, length, 32), torch.ones(2, 1, length, length)) for length in (10, 40)}
    with torch.no_grad():
        traced = torch.jit.trace(wrapped, inputs[10], check_trace=False)
        for example in inputs.values():
            torch.testing.assert_close(traced(*example), wrapped(*example))


def test_padding_may_stand_before_the_tokens():
    original, ours = model_pair()
    ids, mask = padded_batch(40)
    mask = mask.flip(1)
    expected, actual = (outputs_and_gradients(model, ids, mask) for model in (original, ours))
    torch.testing.assert_close(actual["hidden"], expected["hidden"], rtol=1e-4, atol=1e-5)


def test_training_follows_inference_at_the_same_length():
    """What is kept for a length must not be a tensor of inference mode, which autograd refuses."""
    distance_rows.cache_clear()
    _, ours = model_pair(position_buckets=16)
    ids, mask = padded_batch(90)
    with torch.inference_mode():
        ours(input_ids=ids, attention_mask=mask)
    assert outputs_and_gradients(ours, ids, mask)
