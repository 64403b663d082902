"""Short self-checks of single rooms: each shows shapes and a few values, and returns an exit code."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

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


def show_media(arguments: Sequence[str], modality: str) -> int:
    """The window that would be read of files, and what is wrong with them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m rainbow_ray.modalities.{modality}", description=show_media.__doc__
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(arguments)

    def show() -> None:
        from rainbow_ray.modalities.media import MEDIA, Trouble, Windows

        open_recording = importlib.import_module(MEDIA[modality]).open_recording
        for path in options.files:
            try:
                recording = open_recording(path)
                sounding = recording.sounding(options.seconds)
                start = Windows(options.seconds).starts(recording.duration, path.name, sounding)[0]
                window = recording.read(start, options.seconds)
            except Trouble as trouble:
                print(f"{path}: {trouble.reason} ({trouble.detail})")
                continue
            print(f"{path}: {recording.duration:.2f} s; window from {start:.2f} s: {window.shape} {window.dtype}")

    return _report(show)


def show_segmentation(arguments: Sequence[str]) -> int:
    """Two made-up songs: their stretches, and each metric of a guess."""
    parser = argparse.ArgumentParser(
        prog="python -m rainbow_ray.problems.segmentation", description=show_segmentation.__doc__
    )
    parser.parse_args(arguments)

    def show() -> None:
        import numpy as np

        from rainbow_ray.problems import make_problem
        from rainbow_ray.problems.segmentation import Segmentation
        from rainbow_ray.problems.stretches import merge

        problem = Segmentation(make_problem("multiclass", classes=("spatial", "temporal")))
        label = np.array([0, 0, 1, 1, 0, 1, 1, np.nan], dtype=np.float32)
        place = np.array([0, 1, 2, 3, 4, 0, 1, 2], dtype=np.float32)
        targets = np.stack([label, 4 * place, 4 * place + 4, place, (np.arange(8) > 4)], axis=1).astype(np.float32)
        print(f"targets (label, start, end, place, song): {targets.shape}; {problem.tell(targets)}")
        scores = np.eye(2, dtype=np.float32)[[0, 1, 1, 1, 0, 1, 0, 0]]
        found = merge(label[:5].astype(np.int64), np.full(5, 4.0))
        for one, start, end in zip(found.labels, found.starts, found.ends, strict=True):
            print(f"  {start:5.1f} to {end:5.1f} s: {problem.inner.tell(np.array([one]))[0]}")
        metrics, _ = problem.metrics(targets, scores)
        print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if value is not None))

    return _report(show)


def show_temporal(arguments: Sequence[str]) -> int:
    """Each kind over nine segments of two songs."""
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.model.temporal", description=show_temporal.__doc__)
    parser.parse_args(arguments)

    def show() -> None:
        import torch

        from rainbow_ray.config import TemporalConfig
        from rainbow_ray.data.stream import Line
        from rainbow_ray.model.temporal import KINDS, Temporal

        run = torch.tensor([0] * 6 + [1] * 3)
        start = torch.arange(9.0) * 4
        line = Line(torch.stack([start, start + 4, start / 36, (start + 4) / 36], dim=1), run)
        for kind in KINDS:
            if kind == "none":
                continue
            model = Temporal(16, TemporalConfig(kind=kind)).eval()
            weights = sum(p.numel() for p in model.parameters())
            print(f"{kind}: {tuple(model(torch.randn(9, 16), line).shape)}, {weights} weights")

    return _report(show)


def show_fusion(arguments: Sequence[str]) -> int:
    """Each kind of fusion over tokens of three modalities, one of them missing in the second example."""
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.model.fusion", description=show_fusion.__doc__)
    parser.parse_args(arguments)

    def show() -> None:
        import torch

        from rainbow_ray.config import FusionConfig
        from rainbow_ray.model.fusion import KINDS, Fusion, Tokens

        mask = torch.ones(2, 5, dtype=torch.bool)
        missing = torch.tensor([[True], [False]]) & mask
        tokens = {"text": Tokens(torch.randn(2, 5, 8), mask), "audio": Tokens(torch.randn(2, 5, 6), missing)}
        for kind in KINDS:
            fusion = Fusion({"text": 8, "audio": 6}, FusionConfig(kind=kind)).eval()
            shares = fusion.attention(tokens)
            told = "" if shares is None else f"; text looks at audio {shares[:, 0, 1].tolist()}"
            print(f"{kind}: {tuple(fusion(tokens).shape)}{told}")

    return _report(show)
