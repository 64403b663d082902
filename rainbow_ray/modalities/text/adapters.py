"""How families of text transformers are laid out: embeddings, a list of layers, and what every layer is handed.

Transformers runs a model only as a whole. To read a middle layer, to freeze a prefix and to start from stored hidden
states, a layout names the parts and calls them as the family's own `forward` does (tests hold them equal).
Shapes: `hidden` is `(units, length, width)`, `mask` is `(units, length)` with 1 for tokens.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

Body = Any  # a PreTrainedModel: its parts are reached by names that differ from family to family


class Layout(Protocol):
    """One family's way to run."""

    def layers(self, body: Body) -> nn.ModuleList: ...

    def embed(self, body: Body, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor: ...

    def context(self, body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Any:
        """What is computed once and handed to every layer."""

    def run(self, body: Body, index: int, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        """Layer `index`, counted from 0."""

    def finish(self, body: Body, hidden: torch.Tensor) -> torch.Tensor:
        """What follows the model's last layer."""


class BertLayout:
    """BERT and RoBERTa (and what copies them: CamemBERT, XLM-R)."""

    def layers(self, body: Body) -> nn.ModuleList:
        layers: nn.ModuleList = body.encoder.layer
        return layers

    def embed(self, body: Body, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        out: torch.Tensor = body.embeddings(input_ids=input_ids)
        return out

    def context(self, body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Any:
        from transformers.masking_utils import create_bidirectional_mask  # imports torch._dynamo: 3 s

        return create_bidirectional_mask(config=body.config, inputs_embeds=hidden, attention_mask=mask)

    def run(self, body: Body, index: int, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        return _first(self.layers(body)[index](hidden, context))

    def finish(self, body: Body, hidden: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return hidden


class DistilBertLayout(BertLayout):
    def layers(self, body: Body) -> nn.ModuleList:
        layers: nn.ModuleList = body.transformer.layer
        return layers

    def embed(self, body: Body, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        out: torch.Tensor = body.embeddings(input_ids)
        return out


class DebertaLayout(BertLayout):
    """DeBERTa-v2 and v3: relative positions, and a convolution beside the first layer."""

    def embed(self, body: Body, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = body.embeddings(input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids), mask=mask)
        return out

    def context(self, body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Any:
        encoder = body.encoder
        return {
            "mask": mask,
            "attention_mask": encoder.get_attention_mask(mask),
            "relative_pos": encoder.get_rel_pos(hidden),
            "rel_embeddings": encoder.get_rel_embedding(),
        }

    def run(self, body: Body, index: int, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        output = _first(
            body.encoder.layer[index](
                hidden,
                context["attention_mask"],
                relative_pos=context["relative_pos"],
                rel_embeddings=context["rel_embeddings"],
            )
        )
        if index == 0 and body.encoder.conv is not None:
            output = body.encoder.conv(hidden, output, context["mask"])
        return output


class ModernBertLayout:
    """ModernBERT: rotary positions, local and global attention in turns, a norm after the last layer."""

    def layers(self, body: Body) -> nn.ModuleList:
        layers: nn.ModuleList = body.layers
        return layers

    def embed(self, body: Body, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        out: torch.Tensor = body.embeddings(input_ids=input_ids)
        return out

    def context(self, body: Body, hidden: torch.Tensor, mask: torch.Tensor) -> Any:
        from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

        arguments = {"config": body.config, "inputs_embeds": hidden, "attention_mask": mask}
        masks = {
            "full_attention": create_bidirectional_mask(**arguments),
            "sliding_attention": create_bidirectional_sliding_window_mask(**arguments),
        }
        positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        rotary = {kind: body.rotary_emb(hidden, positions, kind) for kind in set(body.config.layer_types)}
        return masks, rotary

    def run(self, body: Body, index: int, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        masks, rotary = context
        layer = body.layers[index]
        kind = layer.attention_type
        return _first(layer(hidden, attention_mask=masks[kind], position_embeddings=rotary[kind]))

    def finish(self, body: Body, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = body.final_norm(hidden)
        return out


LAYOUTS: dict[str, Layout] = {
    "bert": BertLayout(),
    "roberta": BertLayout(),
    "xlm-roberta": BertLayout(),
    "camembert": BertLayout(),
    "deberta-v2": DebertaLayout(),
    "distilbert": DistilBertLayout(),
    "modernbert": ModernBertLayout(),
}


def find_layers(body: Body) -> nn.ModuleList:
    """The layers of any text model, known family or not: the one list of modules as long as its config says.

    Raises `ValueError` when that does not name one list.
    """
    layout = LAYOUTS.get(body.config.model_type)
    if layout is not None:
        return layout.layers(body)
    count = body.config.num_hidden_layers
    found = [m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(found) != 1:
        raise ValueError(f"the layers of a {body.config.model_type!r} model cannot be told apart")
    return found[0]


def _first(output: Any) -> torch.Tensor:
    out: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return out
