"""The zero loss: a gradient of zero for every trained parameter, in the form that DistributedDataParallel calls."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.utils import _to_kwargs

from rainbow_ray.nn.zero_loss import GradientAverager


def test_every_trained_parameter_gets_a_gradient_of_zero_and_keeps_what_it_has():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad = False
    model[1].weight.grad = torch.full((2, 4), 5.0)
    loss = GradientAverager(model)(None)
    assert loss == 0
    torch.autograd.backward(loss)
    assert model[0].bias.grad is None
    assert (model[0].weight.grad == 0).all()
    assert (model[1].weight.grad == 5).all()


def test_a_parameter_that_is_not_finite_gets_a_gradient_of_zero_too():
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, torch.inf)
    torch.autograd.backward(GradientAverager(model)(None))
    assert (model.weight.grad == 0).all()


def test_its_input_can_be_moved_to_a_gpu():
    """DistributedDataParallel takes the first of the moved inputs, which there must be."""
    moved, keywords = _to_kwargs((None,), {}, torch.device("cpu"), False)
    assert GradientAverager(nn.Linear(2, 2))(*moved[0], **keywords[0]) == 0
