"""Short self-checks of single rooms: each shows shapes and a few values, and returns an exit code."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence

from rainbow_ray.config import DEFAULT_MANIFEST, Config, TextEncoderConfig
from rainbow_ray.errors import InputError
from rainbow_ray.phases import get_phase

LABELS: dict[str, list[str] | list[float]] = {
    "binary": ["True", "False", "1", "0", "yes", "no"],
    "multiclass": ["spatial", "temporal", "causal", "spatial", "temporal", "causal"],
    "multilabel": ["spatial, temporal", "temporal", "causal", "spatial", "temporal; causal", "spatial"],
    "regression": [0.0, 0.0, 0.5, 1.5, 2.0, 4.0],
}
SAMPLE = ["a door that was a wall until someone knocked", "the same minute, told from its far end"]


def show_manifest(arguments: Sequence[str]) -> int:
    """Schema, and how many rows can be used: `python -m rainbow_ray.data.manifest P`."""
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.data.manifest", description=show_manifest.__doc__)
    parser.add_argument("location", nargs="?", default=DEFAULT_MANIFEST, help="parquet file, folder or URL")
    parser.add_argument("--target", default=get_phase(1).target, help="label column, or field of training_data")
    options = parser.parse_args(arguments)

    def show() -> None:
        from rainbow_ray.data.examples import count
        from rainbow_ray.data.manifest import find_columns, open_manifest, plain_rows

        manifest = open_manifest(options.location)
        print(f"{manifest.location}: {manifest.rows} rows in {len(manifest.files)} file(s)")
        columns = find_columns(manifest, Config().data, options.target)
        print(f"song: {columns.song}; text: {', '.join(columns.text)}; label: {'.'.join(filter(None, columns.label))}")
        table = manifest.dataset()
        rows = plain_rows(table.to_table(columns=columns.projection), columns)
        print(f"songs: {len(set(rows['song'].to_pylist()))}; labels: {rows['label'].type}")
        print(f"labels by row: {count(rows['label'])}")
        print(f"left out: {count(rows['dropped']) or 'nothing'}")

    return _report(show)


def show_text(arguments: Sequence[str]) -> int:
    """Tokens and states of two sentences: `python -m rainbow_ray.modalities.text --encoder NAME`."""
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.modalities.text", description=show_text.__doc__)
    parser.add_argument("--encoder", default="embedded", help="hub name, local folder, or `embedded`")
    options = parser.parse_args(arguments)

    def show() -> None:
        import numpy as np
        import pyarrow as pa
        import torch

        from rainbow_ray.data.examples import Examples
        from rainbow_ray.modalities import text

        rows = text.prepare(pa.table({"text": SAMPLE}), encoder=options.encoder, limit=512)
        examples = Examples(rows, np.zeros(len(SAMPLE), np.float32), np.ones(len(SAMPLE), np.float32))
        inputs = text.collate(examples, np.arange(len(SAMPLE)), pad_id=text.pad_id(options.encoder))
        for name, tensor in inputs.items():
            print(f"{name}: {tuple(tensor.shape)}")
        encoder = text.TextEncoder(text.load_body(options.encoder), TextEncoderConfig(layer="last")).eval()
        with torch.no_grad():
            for depth, state in enumerate(encoder.all_layers(inputs[text.TOKENS], inputs["mask"])):
                print(f"layer {depth}: {tuple(state.shape)}, mean norm {state.norm(dim=-1).mean():.3f}")

    return _report(show)


def show_problem(name: str) -> int:
    """Labels, losses and metrics of six made-up songs: `python -m rainbow_ray.problems.binary`."""

    def show() -> None:
        import numpy as np
        import pyarrow as pa
        import torch

        from rainbow_ray.problems import make_problem

        config = Config()
        parsed = make_problem(name).parse(pa.chunked_array([LABELS[name]]), "sample", config.data)
        problem = parsed.problem.settle(parsed.targets, "sample", config).problem
        targets = parsed.targets
        print(f"targets: {targets.tolist()}")
        losses = importlib.import_module(type(problem).__module__).LOSSES
        for loss in losses:
            training = config.training.model_copy(update={"loss": loss})
            fitted = problem.fit(targets, training)
            logits = torch.linspace(-2, 2, len(targets) * fitted.outputs).reshape(len(targets), fitted.outputs)
            values = fitted.loss(logits, torch.from_numpy(targets))
            print(f"{loss}: logits {tuple(logits.shape)}, losses {np.round(values.numpy(), 4).tolist()}")
        scores = fitted.scores(logits).numpy()
        print(f"scores: {scores.shape}; predictions: {fitted.decide(scores)}")
        metrics, _ = fitted.metrics(targets, scores)
        print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if value is not None))

    return _report(show)


def _report(show: Callable[[], None]) -> int:
    try:
        show()
    except InputError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems))
        return 2
    return 0
