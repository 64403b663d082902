"""Export of a bundle to an ONNX graph with dynamic batch size and lengths.

The graph contains the encoder, the head and all members of an ensemble, and returns uncalibrated scores. Its folder
also contains the tokenizer and the calibration, so that `inference.onnx_predictor` needs neither PyTorch nor Ray. Of a
stacked ensemble, the graph returns the scores of each fit's neural network and the features that the linear models
read, which are in `stack.json`.

Inputs of the graph, for a batch of b examples:

    input_ids, mask    `(b, tokens)`, int64
    words              `(b, words)`, int64: hashed words, of models with a bag of words
    times              `(b, 4)`, float32: start and end in seconds and as fractions of the song, of models of segments,
                       where a batch is a song
    audio              `(b, samples)`, float32, one window per example at the encoder's sample rate; of an encoder
                       with a feature extractor, what that returns, `(b, …)`
    midi, midi_mask    `(b, notes, fields)`, float32, and `(b, notes)`, bool, one window per example
    audio_descriptors, midi_descriptors   `(b, descriptors)`, float32, of each window, of models that read them
    has_<modality>     `(b,)`, bool: whether an example has the modality, of models that read several
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
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
from rainbow_ray.bundle.model_card import onnx_use, replace_use
from rainbow_ray.bundle.tokenizer_files import save_tokenizer_json
from rainbow_ray.data.batch import Batch, SegmentTimes
from rainbow_ray.inference.ensemble import EnsembleScorer
from rainbow_ray.inference.onnx_predictor import FEATURES, FORMAT
from rainbow_ray.modalities.descriptors import descriptors_key
from rainbow_ray.modalities.graph_inputs import GraphBatch
from rainbow_ray.modalities.spec import get_modality
from rainbow_ray.modalities.text.tokenize import load_tokenizer, pad_id
from rainbow_ray.stacking.files import write_stacks
from rainbow_ray.stacking.linear_member import MemberInputs
from rainbow_ray.stacking.stack import mean_of_fits
from rainbow_ray.utils.errors import InputError, TrainingError, first_line
from rainbow_ray.utils.io import atomic_folder

TOLERANCE = 1e-4  # largest difference of scores, as `measure_parity` returns it
BATCH_SIZES = ((3, 12, 9), (1, 5, 1), (6, 40, 30), (2, 64, 3))  # examples, tokens and words of random batches
SEGMENT_SECONDS = 3.0  # of a random segment


@dataclass(frozen=True)
class OnnxExport:
    """Result of an export.

    Attributes:
        folder: Folder of the ONNX bundle.
        parity: Largest difference between the scores of the graph and of the model, over random batches.
        n_batches: Number of these batches.
    """

    folder: Path
    parity: float
    n_batches: int


class ScoringGraph(nn.Module):
    """The module that is exported: it builds a batch from named tensors and scores it.

    Args:
        bundle: The model.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        bundle = dataclasses.replace(bundle, novelty=None)  # which an ONNX bundle does not compute
        self.scorer = EnsembleScorer(bundle)
        self.model = bundle.model
        self.is_stacked, self.feature_keys = bool(bundle.stacks), bundle.feature_keys

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Score a batch.

        Args:
            inputs: Inputs of the graph by name, as the module's docstring lists them.

        Returns:
            Uncalibrated scores, `(b,)` or `(b, classes)`, float32. Of a stacked ensemble, those of each fit's neural
            network, `(fits, b, …)`, and each of `feature_keys`, `(b, width)`.
        """
        first = next(iter(inputs.values()))
        b = first.shape[0]
        all_present = first.new_ones(b, dtype=torch.bool)
        present = {name: inputs.get(f"has_{name}", all_present) for name in self.model.modalities}
        units = {name: self._units(name, inputs) for name in self.model.modalities}
        segment_times = SegmentTimes(inputs["times"], None) if "times" in inputs else None
        zeros = first.new_zeros(b, dtype=torch.float32)  # targets and weights, which scores do not depend on
        batch = Batch(units, dict.fromkeys(units), present, zeros, zeros, segment_times)
        scores, features = self.scorer(batch)
        if not self.is_stacked:
            return ((scores.mean(dim=0) if len(scores) > 1 else scores[0]),)
        return (scores, *(features[key] for key in self.feature_keys))

    def _units(self, name: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs of a modality's encoder."""
        return get_modality(name).units_of_graph(self.model.modules_of(name), inputs)


def export_onnx(bundle: Bundle, folder: Path, source: str) -> OnnxExport:
    """Write an ONNX bundle atomically, after comparing its scores with those of the model.

    Args:
        bundle: The model.
        folder: Folder to write; an existing one is replaced.
        source: Hash that identifies the bundle.

    Returns:
        The folder and the largest difference of scores.

    Raises:
        InputError: The model cannot be exported.
        TrainingError: The scores of the graph differ from those of the model.
    """
    _check_exportable(bundle)
    graph = ScoringGraph(bundle).eval()
    with atomic_folder(folder) as temporary:
        _write_graph(graph, bundle, temporary / GRAPH)
        parity = measure_parity(graph, bundle, temporary / GRAPH)
        if not parity <= TOLERANCE:
            raise TrainingError(f"the scores of the ONNX graph differ from those of the model by {parity:.1e}, more"
                                f" than {TOLERANCE:.0e}; nothing was written")  # fmt: skip
        _write_other_files(bundle, temporary, source, parity)
    return OnnxExport(folder, parity, len(BATCH_SIZES))


def measure_parity(graph: ScoringGraph, bundle: Bundle, file: Path) -> float:
    """Return the largest difference between the scores of an ONNX file and of a model.

    Args:
        graph: The model.
        bundle: Its bundle.
        file: The exported graph.

    Returns:
        The largest absolute difference over random batches of several sizes; for regression, relative to the standard
        deviation of the targets or the distance from their mean, whichever is larger.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    input_names = {graph_input.name for graph_input in session.get_inputs()}
    location, scale = bundle.task.score_location_and_scale()
    differences = []
    for seed, sizes in enumerate(BATCH_SIZES):
        inputs = make_inputs(bundle, *sizes, seed=seed)
        with torch.inference_mode():
            expected, *features = (output.numpy() for output in graph(inputs))
        scores, *other = session.run(
            None, {name: value.numpy() for name, value in inputs.items() if name in input_names}
        )
        tolerance_unit = np.maximum(scale, np.abs(expected - location))
        differences.append(float(np.max(np.abs(scores - expected) / tolerance_unit)))
        if bundle.stacks:
            keys, texts = graph.feature_keys, [""] * len(scores[0])
            combined, expected = (
                mean_of_fits(
                    bundle.stacks, neural, MemberInputs(texts, dict(zip(keys, read, strict=True))),
                    bundle.task.base_task.target_type,
                )
                for neural, read in ((scores, other), (expected, features))
            )  # fmt: skip
            tolerance_unit = np.maximum(scale, np.abs(expected - location))
            differences.append(float(np.max(np.abs(combined - expected) / tolerance_unit)))
    return float(np.max(differences))  # unlike `max`, numpy does not ignore NaN


def make_inputs(bundle: Bundle, n_examples: int, n_tokens: int, n_words: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Return random inputs of the graph.

    Args:
        bundle: The model.
        n_examples: Examples of the batch; the first has all modalities, every other one lacks some.
        n_tokens: Tokens of the longest text, at most the limit of the model.
        n_words: Words per text.
        seed: Seed of the random numbers.

    Returns:
        Tensors by the names of the graph's inputs, sorted by name.
    """
    rng = torch.Generator().manual_seed(seed)
    model = bundle.model
    inputs: dict[str, torch.Tensor] = {}
    length = min(n_tokens, int(bundle.info["max_tokens"]))
    seconds = float(bundle.info.get("windows", {}).get("seconds", 0.0))
    batch = GraphBatch(n_examples, length, n_words, seconds, bundle.tokenizer)
    for name in model.modalities:
        inputs |= get_modality(name).random_inputs(model.modules_of(name), batch, rng)
        if descriptors_key(name) not in model.descriptor_widths:
            inputs.pop(descriptors_key(name), None)
    for position, name in enumerate(model.modalities if model.is_fused else ()):
        inputs[f"has_{name}"] = torch.tensor([i == 0 or (i + position) % 2 == 0 for i in range(n_examples)])
    if bundle.task.is_sequence_task:
        starts, duration = torch.arange(n_examples) * SEGMENT_SECONDS, n_examples * SEGMENT_SECONDS
        ends = starts + SEGMENT_SECONDS
        inputs["times"] = torch.stack([starts, ends, starts / duration, ends / duration], dim=1)
    return dict(sorted(inputs.items()))


def _check_exportable(bundle: Bundle) -> None:
    """Raise `InputError` for models that cannot be exported."""
    problems = [
        f"a model that reads {name} cannot be exported: this modality has no inputs of a graph; use `predict`"
        for name in bundle.model.modalities
        if not get_modality(name).is_exportable
    ]
    if bundle.task.is_weakly_labeled:
        problems.append("a model of segments that was trained on labels of songs reads a whole song at once, and cannot"
                        " be exported; use `predict`")  # fmt: skip
    if bundle.model.text is not None and not hasattr(load_tokenizer(bundle.tokenizer), "backend_tokenizer"):
        problems.append("its tokenizer has no fast version (tokenizer.json), which an ONNX bundle needs; use `predict`")
    if problems:
        raise InputError(problems)


def _write_graph(graph: ScoringGraph, bundle: Bundle, file: Path) -> None:
    """Export the graph. Raises `InputError` where the exporter does not support the encoder."""
    inputs = make_inputs(bundle, *BATCH_SIZES[0], seed=0)
    dynamic = torch.export.Dim.DYNAMIC
    has_length = {key for name in bundle.model.modalities for key in get_modality(name).inputs_of_any_length}
    shapes = {name: {0: dynamic, 1: dynamic} if name in has_length else {0: dynamic} for name in inputs}
    try:
        with _silenced(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph, kwargs={"inputs": inputs}, dynamic_shapes={"inputs": shapes}, dynamo=True, verbose=False,
                input_names=list(inputs), output_names=["scores", *(f"{FEATURES}{key}" for key in graph.feature_keys)],
            )  # fmt: skip
            program.save(file)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(f"this model of {', '.join(bundle.model.modalities)} cannot be exported by torch.onnx"
                         f" ({first_line(error.__cause__ or error)}); use `predict` or `serve`") from error  # fmt: skip


def _write_other_files(bundle: Bundle, folder: Path, source: str, parity: float) -> None:
    """Write the tokenizer, the model card and the description."""
    task = bundle.task
    write_stacks(folder, bundle.stacks)
    if bundle.model.text is not None:
        save_tokenizer_json(bundle.tokenizer, folder, int(bundle.info["max_tokens"]))
    card = Path(bundle.tokenizer) / CARD
    if card.is_file():
        use = onnx_use(
            bundle.model.modalities, int(bundle.info["max_tokens"]), _input_names(folder / GRAPH),
            is_stacked=bool(bundle.stacks),
        )  # fmt: skip
        (folder / CARD).write_text(replace_use(card.read_text(encoding="utf-8"), use), encoding="utf-8")
    info = bundle.info
    document = {
        "format": FORMAT,
        "graph": GRAPH,
        "source": source,
        "phase": info.get("phase"),
        "target": info.get("target"),
        "modalities": list(bundle.model.modalities),
        "task": task.target_type,
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

    return [graph_input.name for graph_input in onnx.load(graph, load_external_data=False).graph.input]


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Discard logs, warnings and prints of the exporter, which do not concern the user."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)
