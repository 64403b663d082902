"""Compare the kinds of `model.temporal` with each other and with the baselines, on the same folds.

    python -m tests.benchmarks.segments [--manifest P --segments P] [--seeds 3] [--kinds tcn,none] [--set KEY=VALUE …]

Prints pooled out-of-fold metrics, averaged over seeds (each seed has its own split). The gain of each kind over `none`
and over the baselines has an interval from a paired bootstrap over songs of the mean over seeds. The default table is
that of the demo.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.config.load import parse_value, resolve
from rainbow_ray.evaluation.bootstrap import paired_bootstrap_over_seeds
from rainbow_ray.model.frozen_feature_cache import FrozenFeatureCache
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.cross_validation import FitContext
from tests.helpers import data_of, fit_fold

METRICS = ("macro_f1", "accuracy", "time_accuracy", "edit", "f1_at_50", "boundary_0_5s", "boundary_3s")
CACHE_BYTES = 4 * 2**30


def run(options: argparse.Namespace, seed: int, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the data of a seed, and out-of-fold scores `(segments, classes)` of each kind and baseline."""
    keys: list[tuple[str, Any]] = [
        ("phase", 5),
        ("reproducibility.seed", seed),
        ("model.text_encoder.model_name", "embedded"),
    ]
    keys += [("data.manifest_path", options.manifest)] if options.manifest else []
    keys += [("segments.path", options.segments)] if options.segments else []
    keys += [(key, parse_value(value)) for key, _, value in (item.partition("=") for item in options.set)]
    scores_by_name: dict[str, np.ndarray] = {}
    for kind in options.kinds.split(","):
        plan = make_plan(resolve(None, {}, [*keys, ("model.temporal.kind", kind)]))
        data = data_of(plan)
        scores = empty_scores(data.task, len(data.source))
        for fold in range(data.split.n_folds):
            fit_folder = folder / f"{kind}-{seed}-{fold}"
            val, fitted = fit_fold(
                plan, data, fit_folder, fold, frozen_cache=FrozenFeatureCache(folder / "frozen_features", CACHE_BYTES)
            )
            scores[val] = fitted.val_scores
        scores_by_name[kind] = scores
    if not options.no_baselines:
        shared = FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)
        scores_by_name |= {
            f"baseline: {name}": values for name, values in compute_baselines(shared, data.split).scores.items()
        }
    return data, scores_by_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest")
    parser.add_argument("--segments")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", default="transformer,tcn,none")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    runs: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            data, scores_by_name = run(options, seed, Path(folder))
            for name, scores in scores_by_name.items():
                runs.setdefault(name, []).append(scores)
            print(f"# seed {seed} done", flush=True)
    task, targets = data.task, data.source.targets
    songs = data.index.codes("song")

    def mean_metric(name: str, metric: str) -> float | None:
        values = [task.metric(metric, targets, scores) for scores in runs[name]]
        return round(float(np.mean(values)), 4) if None not in values else None

    def macro_f1_gain(name: str, reference: str) -> dict[str, float] | None:
        difference = paired_bootstrap_over_seeds(
            task, "macro_f1", targets, np.stack(runs[name]), np.stack(runs[reference]), songs, seed=0
        )
        return {key: round(value, 4) for key, value in vars(difference).items()} if difference is not None else None

    metrics = [metric for metric in METRICS if metric in task.metric_names] or list(task.metric_names)
    baselines = [name for name in runs if name.startswith("baseline")]
    kinds = [name for name in runs if name not in baselines]
    results: dict[str, Any] = {
        "songs": len(np.unique(songs)),
        "segments": len(targets),
        "labelled": int(task.has_label(targets).sum()),
        "seeds": options.seeds,
        "means over seeds": {name: {metric: mean_metric(name, metric) for metric in metrics} for name in runs},
        "macro_f1 gained on none": {
            name: macro_f1_gain(name, "none") for name in kinds if name != "none" and "none" in kinds
        },
        "macro_f1 gained on": {kind: {name: macro_f1_gain(kind, name) for name in baselines} for kind in kinds[:1]},
    }  # fmt: skip
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
