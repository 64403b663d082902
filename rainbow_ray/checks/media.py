"""Checks of audio and MIDI: presence, cost of encoding what the cache lacks, and filling the cache."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from rich.console import Console

from rainbow_ray.checks.result import CheckResult
from rainbow_ray.modalities.rows import cached_windows
from rainbow_ray.model.audio_feature_cache import WINDOWS_PER_BATCH, AudioFeatureCache
from rainbow_ray.model.build import build_model
from rainbow_ray.model.device import pick_device, pick_precision
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.utils.count_progress import count_progress

MB = 2**20


def check_media(plan: RunPlan, data: PreparedData, cache: AudioFeatureCache) -> Iterator[CheckResult]:
    """Report which modalities examples have, and the cost of encoding the audio that the cache lacks.

    Files were read, and their arrays cached, when the data were prepared.

    Args:
        plan: Plan of the run.
        data: Prepared data.
        cache: States of the frozen layers of the audio encoder.

    Yields:
        The results; none for a model that reads only text.
    """
    reader = plan.input_spec.media_reader
    if reader is None:
        return
    unit = "stems" if plan.unit == "stem" else "songs"
    presence = ", ".join(f"{n} {name or 'nothing'}" for name, n in data.profile["presence"].items())
    yield CheckResult("ok", "media", f"{unit} that have: {presence}; under {reader.root}")
    windows = {name: data.source.window_names(name) for name in plan.input_spec.cached}
    for name, missing in cache.missing(windows).items():
        yield _check_cache_cost(cache, name, missing, len(windows[name]))


def _check_cache_cost(cache: AudioFeatureCache, modality: str, missing: Sequence[str], n_windows: int) -> CheckResult:
    """Estimate time and disk space of the features that are missing, by computing some of them."""
    sample = missing[:WINDOWS_PER_BATCH]
    started = time.perf_counter()
    cache.prepare({modality: sample})
    seconds = (time.perf_counter() - started) / len(sample) * len(missing)
    size_mb = cache.find(modality, sample[0]).nbytes * len(missing) / MB
    free_mb = shutil.disk_usage(cache.store.folder or ".").free / MB
    each = seconds / len(missing)
    duration = f"about {seconds:.0f} s ({each:.2g} s each on {cache.device.type})"
    cost = f"{duration} and {size_mb:.0f} MB in {cache.store.folder}, once"
    text = f"{len(missing)} of {n_windows} windows are not encoded yet: {cost}; --build-cache does it now"
    if size_mb > free_mb:
        return CheckResult(
            "environment_error", "cold cache", f"{text}; only {free_mb:.0f} MB are free: see data.media_cache"
        )
    return CheckResult("ok", "cold cache", text)


def encode_all_windows(plan: RunPlan, data: PreparedData, console: Console) -> CheckResult:
    """Encode all audio windows, so that the cache can be copied in place of the files.

    Args:
        plan: Plan of the run.
        data: Prepared data.
        console: Where progress is shown.

    Returns:
        What was encoded, and where the cache is.
    """
    reader, config = plan.input_spec.media_reader, plan.config
    if reader is None:
        return CheckResult("warning", "cache", "this model reads only text: there is nothing to cache")
    device, _ = pick_device(config.training.device)
    precision, _ = pick_precision(config.training.mixed_precision, device)
    model = build_model(config, plan.input_spec, data.task).to(device)
    cache = AudioFeatureCache(model, plan.input_spec, device, precision)
    windows = {name: data.source.window_names(name) for name in plan.input_spec.cached}
    n_missing = sum(map(len, cache.missing(windows).values()))
    with count_progress(console, "encoding", n_missing, "windows") as advance:
        cache.prepare(windows, advance)
    size_mb = sum(path.stat().st_size for path in (reader.folder or reader.root).glob("*/*/*.npy")) / MB
    counts = ", ".join(f"{len(data.source.window_names(name))} of {name}" for name in plan.input_spec.media)
    speed = f" ({cache.seconds / n_missing:.2f} s each)" if n_missing else ""
    text = f"windows: {counts}; {n_missing} encoded now{speed}; {size_mb:.0f} MB in {reader.folder}"
    advice = "copy that folder to the machine that trains, and set data.media_cache to it"
    return CheckResult("ok", "cache", f"{text}: {advice}")


def window_names(plan: RunPlan, data: PreparedData, indices: np.ndarray) -> dict[str, list[str]]:
    """Return the names of the windows of examples whose frozen features are cached.

    Args:
        plan: Plan of the run.
        data: Prepared data.
        indices: Examples, `(n,)`.

    Returns:
        Names of windows by modality.
    """
    subset = data.source.in_memory_subset(indices)
    return cached_windows(subset.examples.table.take(pa.array(subset.positions)), plan.input_spec)
