"""Compare methods for class imbalance on demo songs of which 5% are positive.

`python -m tests.benchmarks.imbalance [--seeds 5] [--only NAME,…] [--markdown]` prints JSON, or the table of
docs/guides/imbalance.md. Each seed has its own songs, folds and weights; scores are pooled over 5 folds. The average
precision of the rare class does not depend on a threshold; macro-F1 uses the threshold 0.5, or the most probable class.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score

from rainbow_ray.calibration.fit import cross_fit
from rainbow_ray.data.demo.songs import demo_table
from rainbow_ray.model.frozen_feature_cache import FrozenFeatureCache
from rainbow_ray.tasks.scores import empty_scores
from tests.helpers import data_of, fit_fold, plan_of

SONGS, RARE = 400, 20
METRICS = ("average_precision_rare", "macro_f1", "recall_rare")
PLAIN_BINARY: dict[str, Any] = {"phase": 1, "training__pos_weight": None}
PLAIN_CLASSES: dict[str, Any] = {
    "phase": 2, "training__class_weights": "none", "data__target_column": "kind", "training__metric": "macro_f1",
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "binary: nothing": PLAIN_BINARY,
    "binary: pos_weight auto (the default)": {"phase": 1},
    "binary: pos_weight 5": {"phase": 1, "training__pos_weight": 5.0},
    "binary: oversample": {**PLAIN_BINARY, "training__sampling": "oversample"},
    "binary: undersample": {**PLAIN_BINARY, "training__sampling": "undersample"},
    "binary: focal": {**PLAIN_BINARY, "training__loss": "focal"},
    "binary: focal, pos_weight auto": {"phase": 1, "training__loss": "focal"},
    "binary: asymmetric": {**PLAIN_BINARY, "training__loss": "asymmetric"},
    "binary: pos_weight auto, calibration.threshold=f1": {"phase": 1, "calibration__threshold": "f1"},
    "binary: logit_adjusted": {"phase": 1, "training__loss": "logit_adjusted"},
    "classes: nothing": PLAIN_CLASSES,
    "classes: class_weights auto (the default)": {**PLAIN_CLASSES, "training__class_weights": "auto"},
    "classes: class_weights rare=5": {**PLAIN_CLASSES, "training__class_weights": {"rare": 5.0, "plain": 1.0}},
    "classes: oversample": {**PLAIN_CLASSES, "training__sampling": "oversample"},
    "classes: undersample": {**PLAIN_CLASSES, "training__sampling": "undersample"},
    "classes: focal": {**PLAIN_CLASSES, "training__loss": "focal"},
    "classes: class_balanced": {**PLAIN_CLASSES, "training__loss": "class_balanced"},
    "classes: logit_adjusted": {**PLAIN_CLASSES, "training__loss": "logit_adjusted"},
}


def write_songs(folder: Path, seed: int) -> Path:
    """Write distinct demo songs, one row each, of which `RARE` are positive; `kind` has the label as a class."""
    tables = []
    for part in range(5):
        table = demo_table(1000 * (seed + 1) + part)
        ids = pc.binary_join_element_wise(str(part), table["id"].cast(pa.string()), "_")
        tables.append(table.select(["concept"]).append_column("id", ids).append_column("label", _labels(table)))
    rows = pa.concat_tables(tables).to_pandas().dropna().drop_duplicates("concept").drop_duplicates("id")
    rows = rows[rows["concept"].str.len() >= 50]
    rng = np.random.default_rng(seed)
    samples = [
        rows[rows["label"] == is_rebracketing].sample(n, random_state=rng)
        for is_rebracketing, n in ((True, RARE), (False, SONGS - RARE))
    ]
    songs = {name: np.concatenate([part[name].to_numpy() for part in samples]) for name in ("id", "concept", "label")}
    is_rebracketing = songs["label"].astype(bool)
    path = folder / f"songs-{seed}.parquet"
    columns = {
        "id": songs["id"].tolist(),
        "concept": songs["concept"].tolist(),
        "has_rebracketing_markers": is_rebracketing.tolist(),
        "kind": np.where(is_rebracketing, "rare", "plain").tolist(),
    }
    pq.write_table(pa.table(columns), path)
    return path


def measure(manifest: Path, seed: int, keys: dict[str, Any], frozen_cache: FrozenFeatureCache) -> dict[str, float]:
    plan = plan_of(manifest, "embedded", reproducibility__seed=seed, data__folds=5, **keys)
    data = data_of(plan)
    scores = empty_scores(data.task, len(data.examples))
    for fold in range(data.split.n_folds):
        with tempfile.TemporaryDirectory() as folder:
            val, fitted = fit_fold(plan, data, Path(folder), fold, frozen_cache=frozen_cache)
        scores[val] = fitted.val_scores
    targets, songs = data.examples.targets, np.arange(len(scores))
    # as in a run: calibration is fitted to the other folds
    calibration, folds = plan.config.calibration, data.split.fold
    scores, thresholded = cross_fit(calibration, data.task, targets, scores, songs, folds)
    predictions = data.task.decode_predictions(thresholded)
    if plan.task.name == "binary":
        is_rare, is_predicted_rare, score = targets > 0.5, np.array(predictions), scores
    else:
        rare_column = list(data.task.score_names).index("score_rare")
        is_rare, is_predicted_rare, score = (
            targets == rare_column,
            np.array(predictions) == "rare",
            scores[:, rare_column],
        )
    return {
        "average_precision_rare": float(average_precision_score(is_rare, score)),
        "macro_f1": float(data.task.metric("macro_f1", targets, thresholded) or 0.0),
        "recall_rare": float(is_predicted_rare[is_rare].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="methods, separated by commas")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/guides/imbalance.md")
    options = parser.parse_args()
    methods = options.only.split(",") if options.only else list(METHODS)
    if options.markdown:
        print("| problem: means | average precision of the rare class | macro-F1 | recall of the rare class |")
        print("| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        manifests = [write_songs(Path(name), seed) for seed in range(options.seeds)]
        frozen_cache = FrozenFeatureCache(Path(name) / "frozen_features", 8 * 2**30)
        for method in methods:
            rows = [measure(manifest, seed, METHODS[method], frozen_cache) for seed, manifest in enumerate(manifests)]
            columns = {metric: [row[metric] for row in rows] for metric in METRICS}
            if options.markdown:
                cells = [f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in columns.values()]
                print(f"| {method} | {' | '.join(cells)} |", flush=True)
            else:
                print(
                    json.dumps({"method": method, **{k: np.round(v, 3).tolist() for k, v in columns.items()}}),
                    flush=True,
                )


def _labels(table: pa.Table) -> pa.ChunkedArray:
    return pc.struct_field(table["training_data"], "has_rebracketing_markers")


if __name__ == "__main__":
    main()
