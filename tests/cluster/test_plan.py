"""Ranking of GPU types and data centers."""

from __future__ import annotations

import pytest

from cluster.plan import match_gpu, rank, volume_usd_per_month
from cluster.runpod_models import DataCenter, GpuType, Volume
from cluster.settings import Settings


def gpu(name, price, memory=24, manufacturer="NVIDIA", **stock):
    centers = [{"id": center.replace("_", "-"), "availability": level} for center, level in stock.items()]
    fields = {"id": f"{manufacturer} {name}", "name": name, "manufacturer": manufacturer, "memory": memory,
              "secure": True, "price": {"secure": price}, "maxCount": {"secure": 4},
              "dataCenters": centers}  # fmt: skip
    return GpuType.model_validate(fields)


GPUS = [
    gpu("RTX 4090", 0.69, EU_1="LOW", US_1="HIGH", XX_1="HIGH"),
    gpu("RTX A5000", 0.27, EU_1="HIGH"),
    gpu("RTX A2000", 0.12, memory=6, EU_1="HIGH"),
    gpu("L40S", 0.86, memory=48, EU_1="NONE"),
    gpu("Tesla V100-SXM2-16GB", 0.10, EU_1="HIGH"),  # Volta: no code in PyTorch for CUDA 13
    gpu("MI300X", 0.05, memory=192, manufacturer="AMD", EU_1="HIGH"),
]
CENTERS = [
    DataCenter(id="EU-1", name="EU-1", globalNetwork=True, networkVolumeTypes=["STANDARD"]),
    DataCenter(id="US-1", name="US-1", globalNetwork=True, networkVolumeTypes=["STANDARD"]),
    DataCenter(id="XX-1", name="XX-1", globalNetwork=False, networkVolumeTypes=["STANDARD"]),
]


def ranked(volume=None, **settings):
    result = rank(GPUS, CENTERS, Settings(**settings), volume)
    return [(candidate.name, candidate.data_center) for candidate in result.candidates], " ".join(result.excluded)


def test_default_order_is_by_price():
    candidates, _ = ranked()
    assert candidates == [("RTX A5000", "EU-1"), ("RTX 4090", "US-1"), ("RTX 4090", "XX-1"), ("RTX 4090", "EU-1")]


def test_requested_gpus_are_ranked_in_their_order():
    candidates, excluded = ranked(gpu=["4090", "A5000", "3090"], data_centers=["EU-1", "US-1"])
    assert candidates == [("RTX 4090", "EU-1"), ("RTX 4090", "US-1"), ("RTX A5000", "EU-1")]
    assert "3090: unknown GPU type" in excluded


def test_gpus_that_the_locked_pytorch_cannot_use_are_excluded():
    assert ranked(gpu=["V100"]) == (
        [],
        "Tesla V100-SXM2-16GB: PyTorch for CUDA 13.0 has no code for it (Volta or older)",
    )
    assert ranked(gpu=["V100"], min_cuda="12.8")[0] == [("Tesla V100-SXM2-16GB", "EU-1")]


def test_pods_are_in_the_data_center_of_their_volume():
    volume = Volume(id="v", name="data", size=20, dataCenter="EU-1")
    assert {center for _, center in ranked(volume)[0]} == {"EU-1"}
    candidates, excluded = ranked(volume, data_centers=["US-1"])
    assert candidates == []
    assert "--dc EU-1" in excluded


def test_several_pods_need_a_private_network():
    assert "XX-1" in {center for _, center in ranked(pods=1)[0]}
    assert "XX-1" not in {center for _, center in ranked(pods=2)[0]}
    assert "no private network" in ranked(pods=2, data_centers=["XX-1"])[1]


def test_max_hourly_applies_to_all_pods_together():
    assert ranked(pods=2, max_hourly=0.6)[0] == [("RTX A5000", "EU-1")]
    candidates, excluded = ranked(pods=3, max_hourly=0.6)
    assert candidates == []
    assert "3 × 0.27 USD per hour" in excluded


def test_excluded_gpus_have_reasons():
    _, excluded = ranked(gpu=["MI300X", "L40S", "A5000"], gpus_per_pod=8)
    assert "manufactured by AMD" in excluded
    assert "at most 4 per pod" in excluded
    assert "L40S: not available" in ranked(gpu=["L40S"])[1]


def test_exact_names_match_one_gpu():
    assert [match.name for match in match_gpu("rtx a5000", GPUS)] == ["RTX A5000"]
    assert len(match_gpu("RTX", GPUS)) == 3


@pytest.mark.parametrize(("size", "usd"), [(10, 0.70), (1000, 70.0), (2000, 120.0)])
def test_monthly_price_of_a_volume(size, usd):
    assert volume_usd_per_month(size) == pytest.approx(usd)
