"""Fusion: the output depends neither on padding, nor on the batch, nor on the values of a missing modality."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from rainbow_ray.config.choices import FusionKind
from rainbow_ray.config.schema import FusionConfig
from rainbow_ray.model.fusion import Fusion, apply_modality_dropout, check_fusion
from rainbow_ray.model.modality_output import Tokens, gather_units

WIDTHS = {"text": 12, "audio": 10, "midi": 8}


def fusion_of(kind: str, seed: int = 0) -> Fusion:
    torch.manual_seed(seed)
    return Fusion(WIDTHS, FusionConfig(kind=kind, hidden_size=16, num_heads=2)).eval()


def tokens_of(examples: int = 4, length: int = 6, seed: int = 1) -> dict[str, Tokens]:
    """Return tokens of examples with different numbers of tokens; the last ones lack audio or MIDI."""
    generator = torch.Generator().manual_seed(seed)
    tokens = {}
    for shift, (name, width) in enumerate(WIDTHS.items()):
        lengths = torch.tensor([1 + (i + shift) % length for i in range(examples)])
        if name == "audio":
            lengths[-1] = 0
        if name == "midi":
            lengths[-2:] = 0
        mask = torch.arange(length)[None] < lengths[:, None]
        tokens[name] = Tokens(torch.randn(examples, length, width, generator=generator), mask)
    return tokens


@pytest.mark.parametrize("kind", get_args(FusionKind))
def test_the_output_depends_on_neither_padding_nor_the_batch(kind):
    fusion, tokens = fusion_of(kind), tokens_of()
    batched = fusion(tokens)
    for example in range(4):
        single = {}
        for name, modality_tokens in tokens.items():
            length = max(1, int(modality_tokens.mask[example].sum()))
            single[name] = Tokens(
                modality_tokens.values[example : example + 1, :length],
                modality_tokens.mask[example : example + 1, :length],
            )
        torch.testing.assert_close(fusion(single)[0], batched[example], atol=1e-5, rtol=0)
    padded = {
        name: Tokens(
            torch.nn.functional.pad(t.values, (0, 0, 0, 9), value=7.0), torch.nn.functional.pad(t.mask, (0, 9))
        )
        for name, t in tokens.items()
    }
    torch.testing.assert_close(fusion(padded), batched, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", get_args(FusionKind))
def test_only_tokens_inside_the_mask_change_the_output(kind):
    fusion, tokens = fusion_of(kind), tokens_of()
    expected = fusion(tokens)
    changed_outside = {
        name: Tokens(torch.where(t.mask[..., None], t.values, 99.0), t.mask) for name, t in tokens.items()
    }
    torch.testing.assert_close(fusion(changed_outside), expected, atol=1e-5, rtol=0)
    for name in WIDTHS:
        changed = tokens | {
            name: Tokens(tokens[name].values + torch.randn(tokens[name].values.shape), tokens[name].mask)
        }
        assert not torch.allclose(fusion(changed)[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("kind", get_args(FusionKind))
def test_a_missing_modality_is_a_learned_token_that_gets_gradients(kind):
    fusion, tokens = fusion_of(kind).train(), tokens_of()
    out = fusion(tokens)[-1]
    (out * torch.linspace(-1, 2, len(out))).sum().backward()
    for name in ("audio", "midi"):
        assert fusion.missing_tokens[name].grad.abs().sum() > 0
    assert fusion.missing_tokens["text"].grad is None or fusion.missing_tokens["text"].grad.abs().sum() == 0


def test_attention_sums_to_one_and_no_modality_attends_to_itself():
    attention = fusion_of("cross_attention").attention(tokens_of())
    torch.testing.assert_close(attention.sum(-1), torch.ones(4, 3))
    assert attention.diagonal(dim1=1, dim2=2).abs().max() == 0
    torch.testing.assert_close(fusion_of("gated").attention(tokens_of()).sum(-1), torch.ones(4, 3))
    assert fusion_of("concat").attention(tokens_of()) is None


def test_modality_dropout_removes_its_fraction_and_keeps_at_least_one():
    torch.manual_seed(0)
    present = {name: torch.ones(20_000, dtype=torch.bool) for name in WIDTHS}
    present["midi"][::2] = False
    remaining = apply_modality_dropout(present, 0.3)
    stacked, is_present = torch.stack(list(remaining.values())), torch.stack(list(present.values()))
    assert stacked.any(dim=0).all()
    assert not (stacked & ~is_present).any(), "a missing modality does not appear"
    # all three would be dropped with probability 0.3 ** 3, and then one is kept; all of two with 0.3 ** 2
    expected = 0.5 * (0.7 + 0.3**3 / 3) + 0.5 * (0.7 + 0.3**2 / 2)
    assert remaining["text"].float().mean() == pytest.approx(expected, abs=0.02)
    assert all((apply_modality_dropout(present, 0.0)[name] == present[name]).all() for name in present)


def test_units_of_an_example_are_concatenated():
    values = torch.arange(4.0)[:, None, None].expand(4, 2, 3) + 1
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]]).bool()
    tokens = gather_units(values, mask, torch.tensor([0, 2, 2, 2]), 4)
    assert tokens.values.shape == (4, 6, 3)
    assert tokens.mask.tolist() == [
        [True, True, False, False, False, False],
        [False] * 6,
        [True, False, True, True, True, True],
        [False] * 6,
    ]
    assert tokens.values[2, :, 0].tolist() == [2, 2, 3, 3, 4, 4]


def test_sizes_are_checked():
    assert "heads" in check_fusion(FusionConfig(hidden_size=30, num_heads=4))[0]
    assert check_fusion(FusionConfig()) == []
