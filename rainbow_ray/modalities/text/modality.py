"""Text as a modality: tokenized rows, a text encoder with pooling, and the bag of words besides it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import ModelConfig
from rainbow_ray.data.examples import Examples
from rainbow_ray.modalities.encoder_cache import clone_encoder
from rainbow_ray.modalities.encoder_types import EncodedUnits, PretrainedEncoder
from rainbow_ray.modalities.graph_inputs import GraphBatch
from rainbow_ray.modalities.spec import InputSpec, ModalitySpec
from rainbow_ray.modalities.text import encoder, tokenize
from rainbow_ray.modalities.text.bag_of_words import WordPresence
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.modalities.text.tokenize import PRESENT, STATES, TOKENS, WORDS
from rainbow_ray.modalities.text.word_hashing import BUCKETS
from rainbow_ray.modalities.windows import DrawView, FindWindow
from rainbow_ray.nn.pooling import Pooling

MASK = "mask"  # input of a batch: which tokens are not padding
POOLING_MODULE, WORDS_MODULE = "pooling", "bag_of_words"  # attributes of the model


class TextModality(ModalitySpec):
    """Text of a song, read by a pretrained transformer."""

    name = title = "text"
    reads_text = True
    needs_fusion = False
    rescales_features = False
    config_prefixes = ("model.text_encoder.", "model.bag_of_words.")
    encoder_folder = "encoder"
    is_exportable = True
    inputs_of_any_length = (TOKENS, MASK, WORDS)

    @override
    def prepare(self, rows: pa.Table, input_spec: InputSpec) -> pa.Table:
        return tokenize.prepare(rows, encoder=input_spec.text, limit=input_spec.max_tokens)

    @override
    def is_present(self, rows: pa.Table) -> pa.ChunkedArray:
        return rows[PRESENT]

    @override
    def lengths(self, rows: pa.Table) -> np.ndarray:
        return tokenize.lengths(rows)

    @override
    def collate(
        self,
        examples: Examples,
        indices: np.ndarray,
        input_spec: InputSpec,
        find: FindWindow | None,
        draw: DrawView | None,
    ) -> dict[str, torch.Tensor]:
        return tokenize.collate(examples, indices, pad_id=tokenize.pad_id(input_spec.text))

    @override
    def load_pretrained(self, name: str) -> Any:
        return encoder.load_encoder(name)

    @override
    def load_config(self, name: str) -> Any:
        return encoder.load_config(name)

    @override
    def load_encoder(self, input_spec: InputSpec) -> PretrainedEncoder:
        return PretrainedEncoder(clone_encoder(input_spec.text, self.name))

    @override
    def make_modules(
        self, config: ModelConfig, pretrained: PretrainedEncoder | None, seconds: float
    ) -> dict[str, nn.Module]:
        assert pretrained is not None
        text = TextEncoder(pretrained.body, config.text_encoder)
        modules: dict[str, nn.Module] = {
            self.name: text,
            POOLING_MODULE: Pooling(config.text_encoder.pooling, text.width),
        }
        if config.bag_of_words.enabled:
            modules[WORDS_MODULE] = WordPresence(config.bag_of_words.hidden_size)
        return modules

    @override
    def encode(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> EncodedUnits:
        mask = units[MASK]
        hidden = modules[self.name](units[TOKENS], mask, units.get(STATES))
        return EncodedUnits(hidden, mask.bool(), modules[POOLING_MODULE](hidden, mask))

    @override
    def extra_widths(self, modules: Mapping[str, Any]) -> dict[str, int]:
        return {WORDS_MODULE: modules[WORDS_MODULE].width} if WORDS_MODULE in modules else {}

    @override
    def extra_features(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {WORDS_MODULE: modules[WORDS_MODULE](units[WORDS])} if WORDS_MODULE in modules else {}

    @override
    def random_inputs(
        self, modules: Mapping[str, Any], batch: GraphBatch, rng: torch.Generator
    ) -> dict[str, torch.Tensor]:
        n, length = batch.n_examples, batch.n_tokens
        vocabulary = int(modules[self.name].body.config.vocab_size)
        lengths = torch.randint(max(2, length // 2), length + 1, (n, 1), generator=rng)
        lengths[0] = length
        mask = (torch.arange(length)[None] < lengths).long()
        ids = torch.randint(min(4, vocabulary - 1), vocabulary, (n, length), generator=rng)
        inputs = {MASK: mask, TOKENS: torch.where(mask > 0, ids, tokenize.pad_id(batch.tokenizer))}
        if WORDS_MODULE in modules:
            inputs[WORDS] = torch.randint(0, BUCKETS, (n, batch.n_words), generator=rng)
        return inputs

    @override
    def units_of_graph(self, modules: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: inputs[key] for key in self.inputs_of_any_length if key in inputs}

    @override
    def describe_encoder(self, input_spec: InputSpec) -> str:
        return input_spec.text

    @override
    def check_bundle(self, description: Mapping[str, Any]) -> list[str]:
        return [] if description["max_tokens"] >= 1 else ["max_tokens must be at least 1 where text is read"]


SPEC = TextModality()
