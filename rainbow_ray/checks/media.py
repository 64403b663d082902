"""Checks of audio and MIDI: presence, cost of encoding what the cache lacks, and filling the cache."""

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
    """Report which modalities examples have, and the cost of encoding the audio that the cache lacks.

    Files were read, and their arrays cached, when the data were prepared.

    Args:
        plan: Plan of the run.
        data: Prepared data.
        learner: The model.

    Yields:
        The results; none for a model that reads only text.
    """
    reader = plan.reading.media_reader
    if reader is None:
        return
    unit = "stems" if plan.unit == "stem" else "songs"
    presence = ", ".join(f"{n} {name or 'nothing'}" for name, n in data.profile["presence"].items())
    yield CheckResult("ok", "media", f"{unit} that have: {presence}; under {reader.root}")
    cache = learner.audio_features
    windows = data.source.window_names("audio")
    missing = cache.missing(windows)
    if not missing:
        return
    sample = missing[:AT_ONCE]
    started = time.perf_counter()
    cache.prepare(sample)
    seconds = (time.perf_counter() - started) / len(sample) * len(missing)
    size_mb = cache.find("audio", sample[0]).nbytes * len(missing) / MB
    free_mb = shutil.disk_usage(cache.store.folder or ".").free / MB
    cost = f"about {seconds:.0f} s and {size_mb:.0f} MB in {reader.folder}, once"
    text = f"{len(missing)} of {len(windows)} windows are not encoded yet: {cost}; --build-cache does it now"
    if size_mb > free_mb:
        text = f"{text}; only {free_mb:.0f} MB are free: see data.media_cache"
        yield CheckResult("environment_error", "cold cache", text)
    else:
        yield CheckResult("ok", "cold cache", text)


def encode_all_windows(plan: RunPlan, data: PreparedData) -> CheckResult:
    """Encode all audio windows, so that the cache can be copied in place of the files.

    Args:
        plan: Plan of the run.
        data: Prepared data.

    Returns:
        What was encoded, and where the cache is.
    """
    reader, config = plan.reading.media_reader, plan.config
    if reader is None:
        return CheckResult("warning", "cache", "this model reads only text: there is nothing to cache")
    device, _ = pick_device(config.training.device)
    precision, _ = pick_precision(config.training.mixed_precision, device)
    model = build_model(config, plan.reading, data.task).to(device)
    cache = AudioFeatureCache(model, plan.reading, device, precision)
    windows = data.source.window_names("audio")
    n_missing = len(cache.missing(windows))
    cache.prepare(windows)
    size_mb = sum(path.stat().st_size for path in (reader.folder or reader.root).glob("*/*/*.npy")) / MB
    counts = ", ".join(f"{len(data.source.window_names(name))} of {name}" for name in plan.reading.media)
    speed = f" ({cache.seconds / n_missing:.2f} s each)" if n_missing else ""
    text = f"windows: {counts}; {n_missing} encoded now{speed}; {size_mb:.0f} MB in {reader.folder}"
    advice = "copy that folder to the machine that trains, and set data.media_cache to it"
    return CheckResult("ok", "cache", f"{text}: {advice}")


def window_names(data: PreparedData, indices: np.ndarray) -> list[str]:
    """Return the names of the audio windows of examples.

    Args:
        data: Prepared data.
        indices: Examples, `(n,)`.

    Returns:
        The names; none where there is no audio.
    """
    if "audio" not in data.examples.table.column_names:
        return []
    subset = data.source.in_memory_subset(indices)
    windows = subset.examples.table["audio"].take(subset.positions).to_pylist()
    return [str(name) for names in windows for name in names]
