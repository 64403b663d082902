"""Features that baselines read: hidden states of the frozen text encoder, and pooled features of other modalities."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.batching import scoring_batches
from rainbow_ray.data.dataset import ExampleView, distinct_windows
from rainbow_ray.data.examples import Examples
from rainbow_ray.modalities.freezing import resolve_depths
from rainbow_ray.modalities.rows import make_collates
from rainbow_ray.modalities.spec import InputSpec, get_modality
from rainbow_ray.modalities.text.frozen_encoder import load_frozen_encoder
from rainbow_ray.modalities.text.modality import SPEC as TEXT
from rainbow_ray.modalities.text.tokenize import TOKENS
from rainbow_ray.model.audio_feature_cache import AudioFeatureCache
from rainbow_ray.model.build import build_model
from rainbow_ray.model.device import pick_device, pick_precision
from rainbow_ray.stacking.linear_member import MemberInputs, hidden_states_key, layer_of_key
from rainbow_ray.training.cross_validation import FitContext

BATCH_SIZE = 256
FROZEN_AUDIO = {"model.audio_encoder.freeze_feature_extractor": True, "model.audio_encoder.freeze_layers": "all"}


def trained_modalities(context: FitContext) -> set[str]:
    """Return the modalities whose pooled features change when the model is trained.

    A baseline of such a modality cannot be a member of a stacked ensemble, which reads the features of the trained
    model.

    Args:
        context: Data and config of the run.

    Returns:
        Names of modalities.
    """
    input_spec = context.input_spec
    is_pretrained = {name: name in input_spec.cached and input_spec.audio != "embedded" for name in input_spec.media}
    is_frozen = context.config.with_values(FROZEN_AUDIO).model == context.config.model
    return {
        name
        for name in input_spec.media
        if not get_modality(name).has_constant_summary or (is_pretrained[name] and not is_frozen)
    }


def media_features(context: FitContext, view: ExampleView) -> dict[str, np.ndarray]:
    """Return pooled features of audio and MIDI from encoders that are not trained.

    Args:
        context: Data and config of the run.
        view: Examples to read.

    Returns:
        Features by key, float32, `(examples, width)`: the pooled output of each encoder, and descriptors; 0 where an
        example lacks the modality.
    """
    input_spec = context.input_spec
    if not input_spec.media:
        return {}
    device, _ = pick_device(context.config.training.device)
    precision, _ = pick_precision(context.config.training.mixed_precision, device)
    config = context.config.with_values(FROZEN_AUDIO)
    media_only = dataclasses.replace(input_spec, modalities=input_spec.media)
    model = build_model(config, media_only, context.task).eval().to(device)
    audio_features = AudioFeatureCache(model, input_spec, device, precision)
    audio_features.prepare({name: distinct_windows(view.examples.table, name) for name in input_spec.cached})
    collates = make_collates(media_only, audio_features.find)
    widths = {key: width for name in input_spec.media for key, width in model.encoder_widths(name).items()}
    features: dict[str, np.ndarray] = {
        key: np.zeros((len(view), width), dtype=np.float32) for key, width in widths.items()
    }
    with torch.no_grad():
        for start in range(0, len(view), BATCH_SIZE):
            indices = np.arange(start, min(start + BATCH_SIZE, len(view)))
            batch = make_batch(view.examples, view.positions[indices], collates).to(device)
            for name, output in model.encode_modalities(batch).items():
                for key, values in output.features(name).items():
                    features[key][indices] = torch.where(batch.present[name][:, None], values, 0.0).cpu().numpy()
    return features


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features of songs with which new songs are compared.

    Attributes:
        features: `(examples, width)` by key, 0 where an example lacks the modality: the layer of the frozen text
            encoder that the model reads, and the pooled features of modalities that training does not change.
        songs: Number of each example's song, `(examples,)`.
    """

    features: dict[str, np.ndarray]
    songs: np.ndarray


def reference_features(
    context: FitContext, inputs: MemberInputs, media: Collection[str], songs: np.ndarray
) -> ReferenceFeatures:
    """Return the features with which new songs are compared.

    Args:
        context: Data and config of the run.
        inputs: What linear models read of the examples.
        media: Modalities with pooled features.
        songs: Number of each example's song, `(examples,)`.

    Returns:
        The features by key.
    """
    excluded = trained_modalities(context)
    features = {name: inputs.features[name] for name in media if name not in excluded}
    n_layers = sum(layer_of_key(key) is not None for key in inputs.features)
    if n_layers:
        key = hidden_states_key(read_layer(context, n_layers))
        features[key] = inputs.present_features[key]
    return ReferenceFeatures(features, songs)


def read_layer(context: FitContext, n_layers: int) -> int:
    """Return the layer of the text encoder that the model reads.

    Args:
        context: Data and config of the run.
        n_layers: Number of layers of the encoder, and 1 for the embeddings.

    Returns:
        The number of the layer; the last one for a mix of all.
    """
    return resolve_depths(context.config.model.text_encoder, n_layers - 1).read


def mean_hidden_states(examples: Examples, encoder: str, config: TextEncoderConfig, device: str) -> np.ndarray:
    """Return the mean over tokens of every layer's hidden states of the frozen text encoder.

    Args:
        examples: Examples with tokens.
        encoder: Name or folder of the encoder.
        config: Config of the encoder, of which layers and freezing are not read.
        device: Value of `training.device`.

    Returns:
        Means, float32, `(examples, layers + 1, hidden_size)`.
    """
    target = pick_device(device)[0]
    model = load_frozen_encoder(encoder, config).to(target)
    lengths = np.array([len(row) for row in examples.lists(TOKENS).rows()])
    means: np.ndarray | None = None
    collates = make_collates(InputSpec(text=encoder))
    with torch.no_grad():
        for indices in scoring_batches(np.arange(len(examples)), lengths):
            inputs = make_batch(examples, indices, collates).to(target).units[TEXT.name]
            batch = model.mean_of_layers(inputs[TOKENS], inputs["mask"])
            if means is None:
                means = np.zeros((len(examples), *batch.shape[1:]), dtype=np.float32)
            means[indices] = batch.cpu().numpy()
    assert means is not None
    return means


def text_states(context: FitContext, examples: Examples) -> np.ndarray | None:
    """Return `mean_hidden_states` of a run's text encoder.

    Args:
        context: Data and config of the run.
        examples: Examples with tokens.

    Returns:
        The means, or None where the run reads no text.
    """
    if not context.input_spec.text:
        return None
    config = context.config
    return mean_hidden_states(examples, context.input_spec.text, config.model.text_encoder, config.training.device)
