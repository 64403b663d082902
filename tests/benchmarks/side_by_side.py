"""SetFit and AutoGluon on the folds of our runs, beside the kept model.

Their dependencies differ from ours: they run in an environment of their own, which needs nothing of this package.

    python -m venv other && other/bin/pip install setfit "autogluon.tabular[lightgbm,catboost,xgboost]"
    python -m tests.benchmarks.side_by_side export --manifest songs.parquet --phases 1 2 4 --folder build/sbs
    other/bin/python tests/benchmarks/side_by_side.py fit setfit build/sbs
    other/bin/python tests/benchmarks/side_by_side.py fit autogluon build/sbs
    python -m tests.benchmarks.side_by_side measure build/sbs

`export` writes the texts, the targets and the folds of each phase and seed, with the out-of-fold scores of our kept
model and the folder of the text encoder that all share; `fit` adds the scores of a tool; `measure` prints a line of
JSON for each phase and tool, with means over seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

SECONDS_PER_FOLD = 30  # time limit of AutoGluon
OURS = "rainbow_ray"


def export(options: argparse.Namespace) -> None:
    """Write the folds of each phase and seed, with the scores of our kept model."""
    from rainbow_ray.evaluation.results import evaluate
    from rainbow_ray.modalities.text.embedded import source_of
    from tests.benchmarks.stacking import fit_everything

    options.folder.mkdir(parents=True, exist_ok=True)
    for phase in options.phases:
        for seed in range(options.seeds):
            keys = [("data.manifest_path", options.manifest), ("model.text_encoder.model_name", options.encoder)]
            start = time.perf_counter()
            plan, data, folds, baselines = fit_everything(keys, phase, seed)
            scores = evaluate(plan, data, folds, baselines).predictions.scores
            document = {
                "phase": phase, "seed": seed, "encoder": str(source_of(options.encoder)),
                "texts": data.examples.texts.tolist(), "targets": data.source.targets.tolist(),
                "fold": data.split.fold.tolist(), "scores": {OURS: scores.tolist()},
                "seconds": {OURS: time.perf_counter() - start},
            }  # fmt: skip
            (options.folder / f"phase{phase}-seed{seed}.json").write_text(json.dumps(document))


def fit_setfit(texts: list[str], targets: np.ndarray, new_texts: list[str], encoder: str, seed: int) -> np.ndarray:
    """Return the probabilities of SetFit's classes, `(new texts, classes)`."""
    from datasets import Dataset  # type: ignore[import-not-found]
    from setfit import SetFitModel, Trainer, TrainingArguments  # type: ignore[import-not-found]

    model = SetFitModel.from_pretrained(encoder)
    arguments = TrainingArguments(batch_size=16, num_epochs=1, max_steps=100, seed=seed, report_to="none")
    train = Dataset.from_dict({"text": texts, "label": targets.astype(int).tolist()})
    Trainer(model=model, args=arguments, train_dataset=train).train()
    return np.asarray(model.predict_proba(new_texts, as_numpy=True))


def fit_autogluon(
    texts: list[str], targets: np.ndarray, new_texts: list[str], folder: Path, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predictions of AutoGluon: probabilities, `(new texts, classes)`, with the classes; or numbers."""
    import pandas as pd
    from autogluon.tabular import TabularPredictor  # type: ignore[import-not-found]

    predictor = TabularPredictor(label="label", problem_type=kind, path=str(folder), verbosity=0)
    train = pd.DataFrame({"text": texts, "label": targets})
    predictor.fit(train, time_limit=SECONDS_PER_FOLD, presets="best_quality", dynamic_stacking=False)
    new = pd.DataFrame({"text": new_texts})
    if kind == "regression":
        return predictor.predict(new).to_numpy(), np.array([])
    probabilities = predictor.predict_proba(new, as_multiclass=True)
    return probabilities.to_numpy(), probabilities.columns.to_numpy()


def fit(options: argparse.Namespace) -> None:
    """Add the out-of-fold scores of a tool to the files of `export`."""
    import tempfile

    for path in sorted(options.folder.glob("phase*.json")):
        document = json.loads(path.read_text())
        targets, fold = np.array(document["targets"]), np.array(document["fold"])
        if options.tool in document["scores"] or (options.tool == "setfit" and document["phase"] == 4):
            continue
        start, n_classes = time.perf_counter(), int(targets.max()) + 1
        kind = {1: "binary", 2: "multiclass", 4: "regression"}[document["phase"]]
        scores = np.zeros((len(targets), n_classes) if kind == "multiclass" else len(targets))
        for number in np.unique(fold[fold >= 0]):
            train, val = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            texts, new_texts = ([document["texts"][i] for i in rows] for rows in (train, val))
            if options.tool == "setfit":
                values = fit_setfit(texts, targets[train], new_texts, document["encoder"], document["seed"])
                classes = np.unique(targets[train]).astype(int)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    values, classes = fit_autogluon(texts, targets[train], new_texts, Path(folder) / "ag", kind)
            if kind == "multiclass":
                scores[np.ix_(val, classes.astype(int))] = values
            else:
                scores[val] = values[:, 1] if kind == "binary" else values
        document["scores"][options.tool] = scores.tolist()
        document["seconds"][options.tool] = time.perf_counter() - start
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(document))
        temporary.replace(path)
        print(path.name, options.tool, round(document["seconds"][options.tool]), "s", flush=True)


def measure(options: argparse.Namespace) -> None:
    """Print the means over seeds of each phase and tool."""
    from tests.benchmarks.stacking import METRICS, task_of_targets

    rows: dict[tuple[int, str], list[list[float]]] = {}
    for path in sorted(options.folder.glob("phase*.json")):
        document = json.loads(path.read_text())
        phase, targets = document["phase"], np.array(document["targets"])
        task = task_of_targets(phase, targets)
        for tool, scores in document["scores"].items():
            metrics, _ = task.metrics(targets.astype(task.score_dtype), np.array(scores, dtype=task.score_dtype))
            values = [float(metrics[name] or 0.0) for name in METRICS[phase]]
            rows.setdefault((phase, tool), []).append([*values, document["seconds"][tool]])
    for (phase, tool), by_seed in rows.items():
        names: list[Any] = [*METRICS[phase], "seconds"]
        means = dict(zip(names, np.mean(by_seed, axis=0).round(4).tolist(), strict=True))
        print(json.dumps({"phase": phase, "tool": tool, "seeds": len(by_seed), **means}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    export_parser = actions.add_parser("export")
    export_parser.add_argument("--manifest", default="demo")
    export_parser.add_argument("--phases", type=int, nargs="+", default=[1, 2, 4], choices=[1, 2, 4])
    export_parser.add_argument("--seeds", type=int, default=5)
    export_parser.add_argument("--encoder", default="embedded")
    export_parser.add_argument("--folder", type=Path, default=Path("build/side_by_side"))
    export_parser.set_defaults(run=export)
    fit_parser = actions.add_parser("fit")
    fit_parser.add_argument("tool", choices=["setfit", "autogluon"])
    fit_parser.add_argument("folder", type=Path)
    fit_parser.set_defaults(run=fit)
    measure_parser = actions.add_parser("measure")
    measure_parser.add_argument("folder", type=Path)
    measure_parser.set_defaults(run=measure)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
