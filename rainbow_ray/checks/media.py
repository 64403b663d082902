"""Audio and MIDI: who has what, what a cold cache would cost, and filling it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import numpy as np

from rainbow_ray.checks.result import CheckResult
from rainbow_ray.model.audio_features import AT_ONCE, AudioFeatureCache
from rainbow_ray.model.device import pick_device, pick_precision
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.learner import Learner, build_model

MB = 2**20


def check_media(plan: RunPlan, data: PreparedData, learner: Learner) -> Iterator[CheckResult]:
    """Presence, and what remains to be computed before the first step: files were read by now, and are kept."""
    reader = plan.reading.media_reader
    if reader is None:
        return
    units = "stems" if plan.unit == "stem" else "songs"
    there = ", ".join(f"{n} {name or 'nothing'}" for name, n in data.profile["presence"].items())
    yield CheckResult("good", "media", f"{units} that have: {there}; under {reader.root}")
    windows = data.source.window_names("audio")
    missing = learner.audio_features.missing(windows)
    if not missing:
        return
    timed = missing[:AT_ONCE]
    began = time.perf_counter()
    learner.audio_features.prepare(timed)
    each = (time.perf_counter() - began) / len(timed)
    size = learner.audio_features.find("audio", timed[0]).nbytes * len(missing) / MB
    free = shutil.disk_usage(learner.audio_features.store.folder or ".").free / MB
    cost = f"{len(missing)} of {len(windows)} windows are not encoded yet: about {each * len(missing):.0f} s and"
    text = f"{cost} {size:.0f} MB in {reader.folder}, once; --prepare does it now"
    if size > free:
        yield CheckResult("environment", "cold cache", f"{text}; only {free:.0f} MB are free: see data.media_cache")
    else:
        yield CheckResult("good", "cold cache", text)


def prepare_media(plan: RunPlan, data: PreparedData) -> CheckResult:
    """Encode all windows, so that the cache can travel in place of the files."""
    reader, config = plan.reading.media_reader, plan.config
    if reader is None:
        return CheckResult("word", "prepare", "only text is read: there is nothing to prepare")
    device, _ = pick_device(config.training.device)
    precision, _ = pick_precision(config.training.mixed_precision, device)
    model = build_model(config, plan.reading, data.task).to(device)
    heard = AudioFeatureCache(model, plan.reading, device, precision)
    windows = data.source.window_names("audio")
    fresh = len(heard.missing(windows))
    heard.prepare(windows)
    size = sum(path.stat().st_size for path in (reader.folder or reader.root).glob("*/*/*.npy")) / MB
    n = {name: len(data.source.window_names(name)) for name in plan.reading.media}
    told = ", ".join(f"{count} of {name}" for name, count in n.items())
    speed = f" ({heard.seconds / fresh:.2f} s each)" if fresh else ""
    text = f"windows: {told}; {fresh} encoded now{speed}; {size:.0f} MB in {reader.folder}"
    return CheckResult(
        "good", "prepared", f"{text}: copy that folder to where you train, and name it with data.media_cache"
    )


def windows_of(data: PreparedData, chosen: np.ndarray) -> list[str]:
    """Windows of sound of some examples."""
    if "audio" not in data.examples.table.column_names:
        return []
    known = data.source.in_memory_subset(chosen)
    rows = known.examples.table["audio"].take(known.positions).to_pylist()
    return [str(name) for row in rows for name in row]
