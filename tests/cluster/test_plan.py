"""Candidates: pure arithmetic on a catalogue."""

from __future__ import annotations

import pytest

from cluster.plan import match_gpu, rank, volume_usd_per_month
from cluster.runpod_models import DataCenter, GpuType, Volume
from cluster.settings import Settings


def gpu(name, price, memory=24, maker="NVIDIA", **stock):
    places = [{"id": place.replace("_", "-"), "availability": level} for place, level in stock.items()]
    facts = {"id": f"{maker} {name}", "name": name, "manufacturer": maker, "memory": memory, "secure": True,
             "price": {"secure": price}, "maxCount": {"secure": 4}, "dataCenters": places}  # fmt: skip
    return GpuType.model_validate(facts)


GPUS = [
    gpu("RTX 4090", 0.69, EU_1="LOW", US_1="HIGH", XX_1="HIGH"),
    gpu("RTX A5000", 0.27, EU_1="HIGH"),
    gpu("RTX A2000", 0.12, memory=6, EU_1="HIGH"),
    gpu("L40S", 0.86, memory=48, EU_1="NONE"),
    gpu("MI300X", 0.05, memory=192, maker="AMD", EU_1="HIGH"),
]
CENTERS = [
    DataCenter(id="EU-1", name="EU-1", globalNetwork=True, networkVolumeTypes=["STANDARD"]),
    DataCenter(id="US-1", name="US-1", globalNetwork=True, networkVolumeTypes=["STANDARD"]),
    DataCenter(id="XX-1", name="XX-1", globalNetwork=False, networkVolumeTypes=["STANDARD"]),
]


def ranked(volume=None, **wishes):
    found = rank(GPUS, CENTERS, Settings(**wishes), volume)
    return [(candidate.name, candidate.data_center) for candidate in found.candidates], " ".join(found.refused)


def test_without_a_wish_the_cheapest_that_is_large_enough():
    found, _ = ranked()
    assert found == [("RTX A5000", "EU-1"), ("RTX 4090", "US-1"), ("RTX 4090", "XX-1"), ("RTX 4090", "EU-1")]


def test_what_is_named_comes_in_the_order_of_the_names():
    found, refused = ranked(gpu=["4090", "A5000", "3090"], data_centers=["EU-1", "US-1"])
    assert found == [("RTX 4090", "EU-1"), ("RTX 4090", "US-1"), ("RTX A5000", "EU-1")]
    assert "3090: no such GPU" in refused


def test_pods_lie_where_their_volume_lies():
    volume = Volume(id="v", name="data", size=20, dataCenter="EU-1")
    assert {place for _, place in ranked(volume)[0]} == {"EU-1"}
    found, refused = ranked(volume, data_centers=["US-1"])
    assert found == []
    assert "--dc EU-1" in refused


def test_more_than_one_pod_needs_a_private_network():
    assert "XX-1" in {place for _, place in ranked(pods=1)[0]}
    assert "XX-1" not in {place for _, place in ranked(pods=2)[0]}
    assert "no private network" in ranked(pods=2, data_centers=["XX-1"])[1]


def test_a_cap_holds_for_all_pods_together():
    assert ranked(pods=2, max_hourly=0.6)[0] == [("RTX A5000", "EU-1")]
    found, refused = ranked(pods=3, max_hourly=0.6)
    assert found == []
    assert "3 × 0.27 USD an hour" in refused


def test_everything_that_will_not_do_has_its_reason():
    _, refused = ranked(gpu=["MI300X", "L40S", "A5000"], gpus_per_pod=8)
    assert "made by AMD" in refused
    assert "at most 4 in a pod" in refused
    assert "L40S: none free" in ranked(gpu=["L40S"])[1]


def test_a_full_name_is_that_gpu_alone():
    assert [found.name for found in match_gpu("rtx a5000", GPUS)] == ["RTX A5000"]
    assert len(match_gpu("RTX", GPUS)) == 3


@pytest.mark.parametrize(("size", "usd"), [(10, 0.70), (1000, 70.0), (2000, 120.0)])
def test_what_a_volume_costs_a_month(size, usd):
    assert volume_usd_per_month(size) == pytest.approx(usd)
