"""Adapters of families of text transformers: where their parts are, and how a layer is called.

Transformers runs a model only as a whole. To read a middle layer, to freeze a prefix and to start from cached hidden
states, an adapter names the parts and calls them as the family's own `forward` does (tests hold them equal). A family
is a row of `ADAPTERS`. Shapes: `hidden` is `(units, length, width)`; `mask` is `(units, length)`, 1 for tokens.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Body = Any  # a PreTrainedModel, whose parts have other names in each family
Context = Any  # what a family's layers share


def _token_ids(input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG001
    return {"input_ids": input_ids}


def _token_ids_types_and_mask(input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": input_ids, "token_type_ids": torch.zeros_like(input_ids), "mask": mask}


def _bidirectional_mask(body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Context:
    from transformers.masking_utils import create_bidirectional_mask  # imports torch._dynamo, which takes 3 s

    return create_bidirectional_mask(**_mask_arguments(body, hidden, mask))


def _mask_arguments(body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """Return the arguments of transformers' mask functions.

    They return no mask for a batch without padding, which is quicker. But to look whether there is padding, the host
    would wait for a GPU.
    """
    arguments = {"config": body.config, "inputs_embeds": hidden, "attention_mask": mask}
    return arguments if hidden.is_cpu else {**arguments, "allow_is_bidirectional_skip": False}


def _relative_positions(body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Context:
    """Return the relative positions of DeBERTa-v2, with its mask."""
    from rainbow_ray.modalities.text.disentangled_attention import distance_embeddings  # imports its family

    encoder = body.encoder
    embeddings = distance_embeddings(encoder, hidden.shape[1])
    return {
        "mask": mask,
        "attention_mask": encoder.get_attention_mask(mask),
        "relative_pos": encoder.get_rel_pos(hidden) if isinstance(embeddings, torch.Tensor) else None,
        "rel_embeddings": embeddings,
    }


def _masks_and_rotary_embeddings(body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Context:
    """Return the masks and rotary embeddings of ModernBERT, by the kind of a layer's attention."""
    from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

    arguments = _mask_arguments(body, hidden, mask)
    masks = {
        "full_attention": create_bidirectional_mask(**arguments),
        "sliding_attention": create_bidirectional_sliding_window_mask(**arguments),
    }
    positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
    rotary = {kind: body.rotary_emb(hidden, positions, kind) for kind in set(body.config.layer_types)}
    return masks, rotary


def _run_plain(body: Body, layer: Any, index: int, hidden: torch.Tensor, context: Context) -> Any:  # noqa: ARG001
    return layer(hidden, context)


def _run_deberta(body: Body, layer: Any, index: int, hidden: torch.Tensor, context: Context) -> Any:
    """Return a layer of DeBERTa-v2, and the convolution beside the first one."""
    output = _first(layer(
        hidden, context["attention_mask"], relative_pos=context["relative_pos"],
        rel_embeddings=context["rel_embeddings"],
    ))  # fmt: skip
    if index == 0 and body.encoder.conv is not None:
        output = body.encoder.conv(hidden, output, context["mask"])
    return output


def _run_modernbert(body: Body, layer: Any, index: int, hidden: torch.Tensor, context: Context) -> Any:  # noqa: ARG001
    """Return a layer of ModernBERT, whose attention is local or global."""
    masks, rotary = context
    kind = layer.attention_type
    return layer(hidden, attention_mask=masks[kind], position_embeddings=rotary[kind])


@dataclass(frozen=True)
class FamilyAdapter:
    """How to run the models of a family in parts; the defaults are those of BERT.

    Attributes:
        layers_path: Dotted path of the list of layers in the model.
        embedding_inputs: Arguments of the module `embeddings`, from token ids and mask.
        layer_context: Computes once what all layers share, from model, embeddings and mask.
        run_layer: Calls a layer, from model, layer, its index, hidden states and context.
        final_norm_path: Dotted path of the norm after the last layer; None without one.
    """

    layers_path: str = "encoder.layer"
    embedding_inputs: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]] = _token_ids
    layer_context: Callable[[Body, torch.Tensor, torch.Tensor], Context] = _bidirectional_mask
    run_layer: Callable[[Body, Any, int, torch.Tensor, Context], Any] = _run_plain
    final_norm_path: str | None = None

    def layers(self, body: Body) -> nn.ModuleList:
        """Return the layers of a model.

        Args:
            body: The model.

        Returns:
            Its own list of layers.
        """
        layers: nn.ModuleList = operator.attrgetter(self.layers_path)(body)
        return layers

    def embed(self, body: Body, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens.

        Args:
            body: The model.
            input_ids: `(units, length)` int64.
            mask: `(units, length)`.

        Returns:
            `(units, length, width)`, the input of the first layer.
        """
        embeddings: torch.Tensor = body.embeddings(**self.embedding_inputs(input_ids, mask))
        return embeddings

    def context(self, body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Context:
        """Return what all layers share, such as masks and positions.

        Args:
            body: The model.
            hidden: Hidden states of any layer, `(units, length, width)`.
            mask: `(units, length)`.

        Returns:
            The argument `context` of `run`.
        """
        return self.layer_context(body, hidden, mask)

    def run(
        self, body: Body, index: int, hidden: torch.Tensor, context: Context, layer: Callable[..., Any] | None = None
    ) -> torch.Tensor:
        """Return the output of a layer.

        Args:
            body: The model.
            index: Index of the layer, from 0.
            hidden: Its input, `(units, length, width)`.
            context: Result of `context`.
            layer: Called in place of the layer, such as a compiled form of it.

        Returns:
            `(units, length, width)`.
        """
        layer = self.layers(body)[index] if layer is None else layer
        return _first(self.run_layer(body, layer, index, hidden, context))

    def finish(self, body: Body, hidden: torch.Tensor) -> torch.Tensor:
        """Return the output of the model, from that of its last layer.

        Args:
            body: The model.
            hidden: Output of the last layer, `(units, length, width)`.

        Returns:
            `(units, length, width)`.
        """
        if self.final_norm_path is None:
            return hidden
        normalized: torch.Tensor = operator.attrgetter(self.final_norm_path)(body)(hidden)
        return normalized


ADAPTERS = {
    "bert": FamilyAdapter(),
    "roberta": FamilyAdapter(),
    "xlm-roberta": FamilyAdapter(),
    "camembert": FamilyAdapter(),
    "distilbert": FamilyAdapter("transformer.layer"),
    "deberta-v2": FamilyAdapter("encoder.layer", _token_ids_types_and_mask, _relative_positions, _run_deberta),
    "modernbert": FamilyAdapter("layers", _token_ids, _masks_and_rotary_embeddings, _run_modernbert, "final_norm"),
}


def find_layers(body: Body) -> nn.ModuleList:
    """Return the layers of a text model of any family.

    Args:
        body: The model. Of a family without an adapter, its layers are the only list of modules that is as long as its
            config says.

    Returns:
        The model's own list of layers.

    Raises:
        ValueError: There is not exactly one such list.
    """
    adapter = ADAPTERS.get(body.config.model_type)
    if adapter is not None:
        return adapter.layers(body)
    n_layers = body.config.num_hidden_layers
    candidates = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == n_layers]
    if len(candidates) != 1:
        raise ValueError(f"the layers of a {body.config.model_type!r} model cannot be told apart")
    return candidates[0]


def _first(output: Any) -> torch.Tensor:
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
