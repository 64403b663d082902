"""A bundle as one ONNX graph: dynamic in batch and length, checked against the model that it came from.

The graph holds the encoder, the head and, of an ensemble, all members: inputs in, uncalibrated scores out. What turns
texts into inputs and scores into answers lies beside it, so that `onnx_bundle.py` needs neither torch nor Ray.

Inputs (b examples): `input_ids` `(b, length)`, `mask` `(b, length)`, `words` `(b, words)` of word buckets; `times`
`(b, 4)` where examples are the segments of one song; `audio` `(b, samples)` at 16 kHz, `midi` `(b, notes, fields)` and
`midi_mask` `(b, notes)`, one window an example, and `has_text`, `has_audio`, `has_midi` `(b,)` where several are read.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rainbow_ray.bundle.bundle import CARD, Bundle
from rainbow_ray.bundle.integrity import DESCRIPTION, GRAPH, file_hashes
from rainbow_ray.bundle.model_card import onnx_use, with_use
from rainbow_ray.bundle.tokenizer_files import save_tokenizer_json
from rainbow_ray.data.batch import Batch, SegmentTimes
from rainbow_ray.inference.ensemble import EnsembleScorer
from rainbow_ray.inference.onnx_predictor import FORMAT
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.midi.reader import FIELDS, INSTRUMENTS
from rainbow_ray.modalities.text.encoder import TOKENS, WORDS, load_tokenizer, pad_id
from rainbow_ray.modalities.text.word_hashing import BUCKETS
from rainbow_ray.utils.errors import InputError, TrainingError, first_line

TOLERANCE = 1e-4  # of a score; of numbers, of how far they are spread, or of the distance from their mean
SIZES = ((3, 12, 9), (1, 5, 1), (6, 40, 30), (2, 64, 3))  # examples, tokens and words of made-up batches
NOTES = 24
SECOND = 3.0  # of a made-up segment


@dataclass(frozen=True)
class Exported:
    """Where the graph lies, and how far its scores are from the model's over made-up songs."""

    folder: Path
    parity: float
    batches: int


class Graph(nn.Module):
    """A batch from named tensors, then the bundle's scores."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.scorer = EnsembleScorer(bundle)
        self.model = bundle.model

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        first = next(iter(inputs.values()))
        b = first.shape[0]
        there = {name: inputs.get(f"has_{name}", first.new_ones(b, dtype=torch.bool)) for name in self.model.modalities}
        units = {name: self._units(name, inputs) for name in self.model.modalities}
        segment_times = SegmentTimes(inputs["times"], None) if "times" in inputs else None
        nothing = first.new_zeros(b, dtype=torch.float32)
        scores: torch.Tensor = self.scorer(
            Batch([], [], units, dict.fromkeys(units), there, nothing, nothing, segment_times)
        )
        return scores

    def _units(self, name: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if name == "text":
            return {key: inputs[key] for key in (TOKENS, "mask", WORDS) if key in inputs}
        values = inputs[name]
        stem = values.new_zeros(values.shape[0], dtype=torch.long)
        if name == "midi":
            return {"values": values, "mask": inputs["midi_mask"], "stem": stem}
        audio = self.model.audio
        assert audio is not None
        return {"values": values if audio.trains_feature_extractor else audio.constant(values), "stem": stem}


def export_onnx(bundle: Bundle, folder: Path, source: str) -> Exported:
    """Write a folder with the graph and all that reads texts for it. `source` identifies the bundle.

    Raises `InputError` for a model that cannot become such a graph, `TrainingError` where its scores are others.
    """
    _check(bundle)
    graph = Graph(bundle).eval()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_graph(graph, bundle, temporary / GRAPH)
        parity = measure_parity(graph, bundle, temporary / GRAPH)
        if not parity <= TOLERANCE:
            raise TrainingError(f"the ONNX graph scores otherwise than the model: off by {parity:.1e}, {TOLERANCE:.0e}"
                                " is allowed; nothing was written")  # fmt: skip
        _write_beside(bundle, temporary, source, parity)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(folder, parity, len(SIZES))


def measure_parity(graph: Graph, bundle: Bundle, file: Path) -> float:
    """The largest difference of scores between graph and model, over batches of several sizes and lengths."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    known = {one.name for one in session.get_inputs()}
    origin, unit = bundle.task.score_location_and_scale()
    worst = 0.0
    for seed, sizes in enumerate(SIZES):
        inputs = make_inputs(bundle, *sizes, seed=seed)
        with torch.inference_mode():
            wanted = graph(inputs).numpy()
        given = {name: tensor.numpy() for name, tensor in inputs.items() if name in known}
        (found,) = session.run(None, given)
        worst = max(worst, float(np.max(np.abs(found - wanted) / np.maximum(unit, np.abs(wanted - origin)))))
    return worst


def make_inputs(bundle: Bundle, examples: int, tokens: int, words: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Made-up songs as the graph takes them: the first has all modalities, the last but one."""
    rng = torch.Generator().manual_seed(seed)
    model, made = bundle.model, {}
    length = min(tokens, int(bundle.info["max_tokens"]))
    if model.text is not None:
        vocabulary = int(model.text.body.config.vocab_size)
        lengths = torch.randint(max(2, length // 2), length + 1, (examples, 1), generator=rng)
        lengths[0] = length
        made["mask"] = (torch.arange(length)[None] < lengths).long()
        ids = torch.randint(min(4, vocabulary - 1), vocabulary, (examples, length), generator=rng)
        made[TOKENS] = torch.where(made["mask"] > 0, ids, pad_id(bundle.tokenizer))
        if model.words is not None:
            made[WORDS] = torch.randint(0, BUCKETS, (examples, words), generator=rng)
    if model.audio is not None:
        samples = round(bundle.info["windows"]["seconds"] * RATE)
        made["audio"] = 0.1 * torch.randn(examples, samples, generator=rng)
    if model.midi is not None:
        made |= _make_notes(examples, float(bundle.info["windows"]["seconds"]), rng)
    for place, name in enumerate(model.modalities if model.is_fused else ()):
        made[f"has_{name}"] = torch.tensor([i == 0 or (i + place) % 2 == 0 for i in range(examples)])
    if bundle.task.is_sequence_task:
        starts = torch.arange(examples) * SECOND
        whole = examples * SECOND
        made["times"] = torch.stack([starts, starts + SECOND, starts / whole, (starts + SECOND) / whole], dim=1)
    return dict(sorted(made.items()))


def _make_notes(examples: int, seconds: float, rng: torch.Generator) -> dict[str, torch.Tensor]:
    shape = (examples, NOTES)
    onsets = (torch.rand(shape, generator=rng) * seconds).sort(dim=1).values
    gaps = torch.diff(onsets, dim=1, prepend=onsets[:, :1])
    pitches = torch.randint(30, 90, shape, generator=rng)
    instruments = torch.randint(0, INSTRUMENTS, shape, generator=rng)
    notes = torch.stack(
        [onsets, torch.rand(shape, generator=rng), pitches, torch.full(shape, 80), gaps, instruments], 2
    )
    assert notes.shape[2] == FIELDS
    mask = torch.arange(NOTES)[None] < torch.randint(1, NOTES + 1, (examples, 1), generator=rng)
    return {"midi": notes.float() * mask[..., None], "midi_mask": mask}


def _check(bundle: Bundle) -> None:
    """Raises `InputError` for what no graph can be."""
    problems = []
    if bundle.task.is_weakly_labeled:
        problems.append("segments that share in their song's label need the whole song at once: this model is not"
                        " exported; use `predict`")  # fmt: skip
    if bundle.model.text is not None and not hasattr(load_tokenizer(bundle.tokenizer), "backend_tokenizer"):
        problems.append("its tokenizer has no fast form (tokenizer.json), which ONNX bundles are read with")
    if problems:
        raise InputError(problems)


def _write_graph(graph: Graph, bundle: Bundle, file: Path) -> None:
    inputs = make_inputs(bundle, *SIZES[0], seed=0)
    free = torch.export.Dim.DYNAMIC
    shapes = {name: {0: free, **({1: free} if name in (TOKENS, "mask", WORDS, "midi", "midi_mask") else {})}
              for name in inputs}  # fmt: skip
    try:
        with _quietly(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph, kwargs={"inputs": inputs}, dynamic_shapes={"inputs": shapes}, dynamo=True, verbose=False,
                input_names=list(inputs), output_names=["scores"],
            )  # fmt: skip
            program.save(file)
    except torch.onnx.errors.OnnxExporterError as error:
        kind = bundle.model.text.body.config.model_type if bundle.model.text is not None else "audio"
        told = first_line(error.__cause__ or error)
        raise InputError(f"this model cannot become an ONNX graph: the exporter does not know all of its {kind!r}"
                         f" encoder ({told}); `predict` and `serve` use it as it is") from error  # fmt: skip


def _write_beside(bundle: Bundle, folder: Path, source: str, parity: float) -> None:
    """The tokenizer, the card and the description."""
    task = bundle.task
    if bundle.model.text is not None:
        save_tokenizer_json(bundle.tokenizer, folder, int(bundle.info["max_tokens"]))
    card = Path(bundle.tokenizer) / CARD
    if card.is_file():
        use = onnx_use(bundle.model.modalities, int(bundle.info["max_tokens"]), _input_names(folder / GRAPH))
        (folder / CARD).write_text(with_use(card.read_text(encoding="utf-8"), use), encoding="utf-8")
    info = bundle.info
    document = {
        "format": FORMAT,
        "graph": GRAPH,
        "source": source,
        "phase": info.get("phase"),
        "target": info.get("target"),
        "modalities": list(bundle.model.modalities),
        "problem": task.target_type,
        "score_names": list(task.score_names),
        "calibration": bundle.calibration.to_json(),
        "text_columns": info["text_columns"],
        "max_tokens": info["max_tokens"],
        "pad_id": pad_id(bundle.tokenizer) if bundle.model.text is not None else 0,
        "segments": task.is_sequence_task,
        "parity": parity,
        "files": file_hashes(folder),
    }
    (folder / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _input_names(graph: Path) -> list[str]:
    import onnx

    return [one.name for one in onnx.load(graph, load_external_data=False).graph.input]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter talks on three ways about what is of no concern to who calls it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
