"""Text encoders: a transformer of any family, read after any layer and frozen up to any layer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.modalities import pretrained
from rainbow_ray.modalities.freezing import (
    check_depths,
    freeze_parameters,
    mix_layers,
    resolve_depths,
    trained_by_depth,
)
from rainbow_ray.modalities.text.adapters import ADAPTERS, find_layers
from rainbow_ray.modalities.text.embedded import EMBEDDED, source_of
from rainbow_ray.modalities.text.tokenize import TOKENS, check_embeddings, load_tokenizer
from rainbow_ray.utils.errors import InputError

SECTION = "model.text_encoder"
# Lengths that attention and matrix products of a device compute without copies of their own, as multiples.
LENGTH_MULTIPLES = {"cuda": 8}


def load_config(name: str) -> Any:
    """Return the config of a text encoder.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Returns:
        A config of transformers.

    Raises:
        InputError: It cannot be loaded.
    """
    return pretrained.read_config(name, source_of(name), pretrained.TEXT)


def load_encoder(name: str) -> Any:
    """Return a pretrained text encoder.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Returns:
        A model of transformers, in fp32.

    Raises:
        InputError: Weights or tokenizer are missing, damaged, or do not belong to each other.
    """
    encoder = pretrained.read_weights(name, source_of(name), pretrained.TEXT)
    check_embeddings(name, pretrained.count_embeddings(encoder))
    return encoder


@functools.cache
def verify_encoder(name: str) -> tuple[str, ...]:
    """Load a text encoder once to see that it can be used; of the embedded one, compare its files.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Returns:
        Warnings about its vocabulary.

    Raises:
        InputError: It cannot be used (see `load_encoder`).
    """
    if name == EMBEDDED:
        source_of(name)  # compares its files with those that were packed, so that they need not be loaded
        return ()
    n_embeddings = pretrained.count_embeddings(load_encoder(name))
    key = pretrained.TEXT.key
    return tuple(f"{key}: {text}" for text in pretrained.check_coverage(load_tokenizer(name), n_embeddings))


def check_encoder(name: str, options: TextEncoderConfig, encoder_config: Any) -> list[str]:
    """Return what is wrong with an encoder, as far as its config tells.

    Args:
        name: Name of the encoder.
        options: Its section of the config.
        encoder_config: Its config of transformers.

    Returns:
        A message per problem.
    """
    key, family = f"{SECTION}.model_name", encoder_config.model_type
    total = getattr(encoder_config, "num_hidden_layers", None)
    if total is None or getattr(encoder_config, "is_encoder_decoder", False):
        return [f"{key}: {name!r} is a {family!r} model, not a text encoder"]
    problems = check_depths(options, total, SECTION)
    if family in ADAPTERS:
        return problems
    from transformers import AutoModel

    if options.layer == "mix":
        problems.append(_no_mix(family))
    try:
        with torch.device("meta"):  # the architecture without its weights
            encoder = AutoModel.from_config(encoder_config)
        if encoder.main_input_name != TOKENS:
            return [f"{key}: {name!r} is a {family!r} model, which does not read text"]
        find_layers(encoder)
    except ValueError as error:
        problems.append(f"{key}: {name!r} cannot be used: {error}")
    return problems


def frozen_config(config: TextEncoderConfig, depth: int | str = "last") -> TextEncoderConfig:
    """Return the config of a text encoder of which nothing is trained.

    Args:
        config: Config of the encoder, of which layers and freezing are not read.
        depth: Number of layers to run; `last` for all.

    Returns:
        The config.
    """
    return config.model_copy(update={"layer": depth, "freeze_layers": "all", "freeze_embeddings": True})


class TextEncoder(nn.Module):
    """A pretrained text encoder, cut off after the layer that is read.

    Frozen layers stay in eval mode. In the methods, `input_ids` and `mask` are `(units, length)` int64; `mask` is 1 for
    tokens and 0 for padding.

    Args:
        body: Model of transformers; it is changed in place.
        config: Which layer is read, and how many are frozen.

    Attributes:
        depth: Number of layers that are run.
        frozen: How many of them are frozen.
        embeddings_frozen: Whether everything outside of the layers is frozen.
        mixed: Whether a learned mix of all layers is read.
        width: Width of the hidden states, `summary_width` that of the pooled text.

    Raises:
        InputError: A depth exceeds the encoder's layers, or its family cannot be mixed.
    """

    def __init__(self, body: Any, config: TextEncoderConfig) -> None:
        super().__init__()
        total, family = body.config.num_hidden_layers, body.config.model_type
        self.adapter = ADAPTERS.get(family)
        problems = check_depths(config, total, SECTION)
        if config.layer == "mix" and self.adapter is None:
            problems.append(_no_mix(family))
        if problems:
            raise InputError(problems)
        depths = resolve_depths(config, total)
        self.depth, self.frozen = depths.read, depths.frozen
        self.mixed, self.is_whole = depths.is_mixed, depths.is_whole
        self.embeddings_frozen = depths.freezes_input if config.freeze_embeddings is None else config.freeze_embeddings
        self.width = self.summary_width = body.config.hidden_size
        if getattr(body, "pooler", None) is not None:
            body.pooler = None  # it is not used
        if family == "deberta-v2":
            from rainbow_ray.modalities.text.disentangled_attention import use_bias_attention  # imports its family

            use_bias_attention(body)
        self.compiled_layers: list[Any] | None = None  # of all layers; not registered, as they are the same modules
        self.layers = [find_layers(body)]  # in a list, so that they are registered once, as part of the body
        del self.layers[0][self.depth :]
        self.body = body
        if self.mixed:
            self.mix_weights = nn.Parameter(torch.zeros(self.depth + 1))
            self.mix_scale = nn.Parameter(torch.ones(()))
        freeze_parameters(body, list(self.layers[0]), self.frozen, freeze_input=self.embeddings_frozen)

    @override
    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """Return the hidden states of the layer that is read.

        Args:
            input_ids: Token ids.
            mask: Which of them are tokens.
            states: `states(…, constant_depth)` from a cache, from which the computation starts; None starts from the
                token ids.

        Returns:
            `(units, length, width)`.
        """
        length, settings = input_ids.shape[1], self.body.config
        n_added = -length % LENGTH_MULTIPLES.get(input_ids.device.type, 1)
        positions = getattr(settings, "max_position_embeddings", None) or -1
        if n_added and (positions < 0 or length + n_added <= positions):
            # the family of RoBERTa counts the positions of tokens other than padding
            input_ids = functional.pad(input_ids, (0, n_added), value=getattr(settings, "pad_token_id", None) or 0)
            mask = functional.pad(mask, (0, n_added))
            if states is not None:
                states = functional.pad(states, (0, 0) * (states.ndim - 2) + (0, n_added))
        return self._forward(input_ids, mask, states)[:, :length]

    def _forward(self, input_ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states of all positions, `(units, length, width)`."""
        if self.adapter is None:
            hidden: torch.Tensor = self.body(input_ids=input_ids, attention_mask=mask).last_hidden_state
            return hidden
        if states is not None:
            hidden = states.movedim(1, -2)
        else:
            # below the first trained parameter no graph is needed
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.embeddings_frozen):
                hidden = self.prefix(input_ids, mask, self.constant_depth)
        return self.suffix(hidden, mask, self.constant_depth)

    @property
    def constant_depth(self) -> int:
        """The number of first layers whose output never changes, because nothing up to them is trained."""
        return self.frozen if self.embeddings_frozen and self.adapter is not None else 0

    def constant_tensors(self, depth: int | None = None) -> list[str]:
        """Return the frozen parameters.

        Args:
            depth: Only those that the states after `depth` layers depend on; None for all.

        Returns:
            Their names in the body.
        """
        excluded_ids = (
            {id(p) for layer in self.layers[0][depth:] for p in layer.parameters()} if depth is not None else set()
        )
        named = self.body.named_parameters()
        return [name for name, p in named if not p.requires_grad and id(p) not in excluded_ids]

    def states(
        self, input_ids: torch.Tensor, mask: torch.Tensor, depth: int, shallower: tuple[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return hidden states in the layout of the cache: `prefix` with the tokens in the second dimension.

        Args:
            input_ids: Token ids.
            mask: Which of them are tokens.
            depth: Number of layers to run.
            shallower: A smaller depth and its states, from which the computation starts.

        Returns:
            `(units, length, …, width)`.
        """
        if shallower is None:
            hidden = self.prefix(input_ids, mask, depth)
        else:
            hidden = self._run(shallower[1].movedim(1, -2), mask, shallower[0], depth)
        return hidden.movedim(-2, 1)

    def prefix(self, input_ids: torch.Tensor, mask: torch.Tensor, depth: int) -> torch.Tensor:
        """Return the hidden states after the first layers.

        Args:
            input_ids: Token ids.
            mask: Which of them are tokens.
            depth: Number of layers to run.

        Returns:
            `(units, length, width)`; with a learned mix those of all layers from the embeddings on,
            `(units, depth + 1, length, width)`.
        """
        assert self.adapter is not None, "only the families of ADAPTERS run in parts"
        hidden = self.adapter.embed(self.body, input_ids, mask)
        return self._run(hidden[:, None] if self.mixed else hidden, mask, 0, depth)

    def suffix(self, hidden: torch.Tensor, mask: torch.Tensor, depth: int) -> torch.Tensor:
        """Return the hidden states of the layer that is read.

        Args:
            hidden: `prefix(…, depth)`.
            mask: Which positions are tokens.
            depth: Number of layers that were run.

        Returns:
            `(units, length, width)`.
        """
        assert self.adapter is not None, "only the families of ADAPTERS run in parts"
        hidden = self._run(hidden, mask, depth, self.depth)
        if self.mixed:
            return mix_layers(hidden, self.mix_weights, self.mix_scale, dim=1)
        return self.adapter.finish(self.body, hidden) if self.is_whole else hidden

    def all_layers(self, input_ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """Return the hidden states of the embeddings and of each layer that is run.

        Args:
            input_ids: Token ids.
            mask: Which of them are tokens.

        Returns:
            `depth + 1` tensors `(units, length, width)`.
        """
        if self.adapter is None:
            return list(self.body(input_ids=input_ids, attention_mask=mask, output_hidden_states=True).hidden_states)
        hidden = self.adapter.embed(self.body, input_ids, mask)
        context = self.adapter.context(self.body, hidden, mask)
        states = [hidden]
        for index in range(self.depth):
            states.append(self.adapter.run(self.body, index, states[-1], context))
        if self.is_whole:
            states[-1] = self.adapter.finish(self.body, states[-1])
        return states

    def mean_of_layers(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the mean over tokens of the hidden states of the embeddings and of each layer that is run.

        Args:
            input_ids: Token ids.
            mask: Which of them are tokens.

        Returns:
            `(units, depth + 1, width)`; 0 for a text without tokens.
        """
        weights = mask[..., None]
        layers = self.all_layers(input_ids, mask)
        return torch.stack([(h * weights).sum(1) / weights.sum(1).clamp(min=1) for h in layers], dim=1)

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compile the trained layers; from then on, training runs them compiled, and inference as they are.

        Layers of the same shape share one graph, which holds for any number of texts and any length.

        Args:
            backend: Backend of `torch.compile`.
        """
        self.compiled_layers = [torch.compile(layer, dynamic=True, backend=backend) for layer in self.layers[0]]

    def parameters_by_depth(self) -> Iterator[tuple[int, nn.Parameter]]:
        """Yield the trained parameters with their depth.

        Yields:
            `(depth, parameter)`: 0 for embeddings, 1 for the first layer, …; those of the mix have that of the last
            layer.
        """
        if self.mixed:
            yield self.depth, self.mix_weights
            yield self.depth, self.mix_scale
        yield from trained_by_depth(self.body, list(self.layers[0]))

    @override
    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        if self.embeddings_frozen:
            self.body.eval()  # also what lies between embeddings and layers, such as DeBERTa's convolution
        for index, layer in enumerate(self.layers[0]):
            layer.train(mode and index >= self.frozen)  # dropout in frozen layers would only be noise
        return self

    def _run(self, hidden: torch.Tensor, mask: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return hidden states after the layers from `start` to `stop`, all of them for a mix."""
        assert self.adapter is not None
        if start == stop:
            return hidden
        states = list(hidden.unbind(1)) if self.mixed else [hidden]
        context = self.adapter.context(self.body, states[-1], mask)
        compiled = self.compiled_layers if self.training and torch.is_grad_enabled() else None
        if min(states[0].shape[:2]) == 1:
            compiled = None  # a graph of its own for one text or one token
        if compiled is not None:
            # resident states may be in bf16, and those of layers are not
            states = [state.float() for state in states]
        for index in range(start, stop):
            layer = compiled[index] if compiled is not None and index >= self.frozen else None
            output = self.adapter.run(self.body, index, states[-1], context, layer)
            if self.mixed and index + 1 == self.depth:
                output = self.adapter.finish(self.body, output)
            states = [*states, output] if self.mixed else [output]
        return torch.stack(states, dim=1) if self.mixed else states[0]


def _no_mix(family: str) -> str:
    return f"{SECTION}.layer: mix is not available for {family!r} encoders"
