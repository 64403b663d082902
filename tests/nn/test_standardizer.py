"""The standardizer against values computed by hand."""

from __future__ import annotations

import torch

from rainbow_ray.nn.standardizer import Standardizer


def test_standardizer_centers_and_scales_and_leaves_constant_features_unscaled():
    module = Standardizer(3)
    features = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 6.0]])
    module.fit(features)
    torch.testing.assert_close(module(features), torch.tensor([[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]]))


def test_standardizer_ignores_missing_values():
    module = Standardizer(2)
    module.fit(torch.tensor([[1.0, torch.nan], [3.0, 7.0], [torch.nan, 9.0]]))
    torch.testing.assert_close(module.mean, torch.tensor([2.0, 8.0]))
    torch.testing.assert_close(module.scale, torch.tensor([1.0, 1.0]))
