"""The attention of DeBERTa-v2 and v3 as scaled dot-product attention with an additive bias.

Content and positions give the score of query i and key j: s (q_i·k_j + q_i·K[e(i-j)] + k_j·Q[e(i-j)]), where e is the
bucket of a distance, K and Q are projections of its embedding, and s = 1 / sqrt(3 d). transformers computes q_i·K for
all buckets, gathers the entries of each pair, and repeats K and Q for each text. Here, K and Q have a row per
distance of the batch's length, in falling order, so that the scores of row i are the same columns shifted by i: a
strided view, whose backward pass needs no scatter.

Reference:
    He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", equation 4; Huang et al. 2019,
    "Music Transformer", section 3.4.1 (relative positions by a shifted view).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, make_log_bucket_position
from typing_extensions import override

# Rows that are computed together, by device: smaller blocks compute and store less, larger ones need fewer operators.
BLOCK_LENGTHS = {"cpu": 64, "cuda": 256}


def use_bias_attention(body: nn.Module) -> None:
    """Replace the attention of a DeBERTa-v2 or v3 encoder in place; parameters keep their names.

    Args:
        body: Any encoder of transformers; others are left as they are.
    """
    for layer in body.modules():
        for name, child in list(layer.named_children()):
            if type(child) is DisentangledSelfAttention and _is_supported(child):
                setattr(layer, name, BiasAttention(child))


def _is_supported(attention: DisentangledSelfAttention) -> bool:
    return bool(attention.relative_attention) and set(attention.pos_att_type) == {"c2p", "p2c"}


class BiasAttention(DisentangledSelfAttention):  # type: ignore[misc]
    """Drop-in replacement of transformers' attention, with its parameters.

    Args:
        original: The attention to replace, with scores of content, content to position and position to content.
    """

    def __init__(self, original: DisentangledSelfAttention) -> None:
        nn.Module.__init__(self)
        settings = {name: value for name, value in vars(original).items() if not name.startswith("_")}
        for name, value in {**settings, **dict(original.named_children())}.items():
            setattr(self, name, value)
        self.train(original.training)

    @override
    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, output_attentions: bool = False,
        query_states: torch.Tensor | None = None, relative_pos: torch.Tensor | None = None,
        rel_embeddings: torch.Tensor | DistanceEmbeddings | None = None,
    ) -> tuple[torch.Tensor, Any]:  # fmt: skip
        """Return the attended values.

        Args:
            hidden_states: `(units, length, width)`.
            attention_mask: True where token i may attend to token j, `(units, 1, length, length)`.
            output_attentions: Whether to return the attention weights too, as transformers computes them.
            query_states: Queries other than `hidden_states`, as transformers computes them.
            relative_pos: Not used where positions are those of `hidden_states`.
            rel_embeddings: Embeddings of the buckets of distances, `(2 * buckets, width)`, or those of the distances.

        Returns:
            `(units, length, width)`, and the attention weights or None.
        """
        if output_attentions or query_states is not None or rel_embeddings is None or _is_exported():
            result: tuple[torch.Tensor, Any] = super().forward(
                hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
            )
            return result
        query, key, value = (
            self._split_heads(project(hidden_states)) for project in (self.query_proj, self.key_proj, self.value_proj)
        )
        scale = 1 / math.sqrt(3 * self.attention_head_size)
        # The encoder of transformers, which runs models as a whole, passes the embeddings of all buckets.
        distances = (
            rel_embeddings
            if isinstance(rel_embeddings, DistanceEmbeddings)
            else self.distances(rel_embeddings, hidden_states.shape[1])
        )
        embeddings = self.pos_dropout(distances.rows)
        project_key = self.key_proj if self.share_att_key else self.pos_key_proj
        project_query = self.query_proj if self.share_att_key else self.pos_query_proj
        position_key, position_query = (
            self._split_heads(distances.expand(project(embeddings))) * scale for project in (project_key, project_query)
        )
        # Keys ask for the distance from them to a query: the same rows in rising order.
        bias = relative_scores(query, position_key)
        bias = bias + relative_scores(key, position_query.flip(1)).transpose(-1, -2)
        # Masks are outer products of which tokens are padding: the diagonal says it for each key.
        is_token = attention_mask.bool().diagonal(dim1=-2, dim2=-1)[..., None, :]
        bias = bias.masked_fill(~is_token, torch.finfo(bias.dtype).min)
        dropout = self.dropout.p if self.training else 0.0
        if query.is_cpu:
            # No fused kernel of a CPU has a gradient for the bias, and the general one computes in fp32.
            scores = torch.baddbmm(bias.flatten(0, 1), (query * scale).flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
            weights = functional.dropout(functional.softmax(scores, -1), dropout)
            attended = torch.bmm(weights.to(value.dtype), value.flatten(0, 1)).view_as(value)
        else:
            attended = functional.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale)
        return attended.transpose(1, 2).flatten(2), None

    def distances(self, embeddings: torch.Tensor, length: int) -> DistanceEmbeddings:
        """Return the embeddings of the distances between tokens.

        Args:
            embeddings: Embeddings of all buckets, `(2 * buckets, width)`.
            length: Number of tokens.

        Returns:
            Those of the distances; which rows they are is kept for each length.
        """
        settings = (self.pos_ebd_size, self.position_buckets, self.max_relative_positions)
        first, last, indices = distance_rows(length, *settings, embeddings.device)
        return DistanceEmbeddings(embeddings[first : last + 1], indices)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Return `(…, length, width)` as `(…, heads, length, head width)`."""
        return states.view(*states.shape[:-1], self.num_attention_heads, -1).transpose(-3, -2)


class DistanceEmbeddings(NamedTuple):
    """Embeddings of the distances between tokens of texts of one length.

    Attributes:
        rows: Embeddings of the buckets that any of the distances needs, `(buckets, width)`.
        indices: Row of each distance from the largest to the smallest, int64 `(2 * length - 1,)`; None where each
            distance has a row of its own, in rising order.
    """

    rows: torch.Tensor
    indices: torch.Tensor | None

    def expand(self, rows: torch.Tensor) -> torch.Tensor:
        """Return a row for each distance, from the largest to the smallest.

        Args:
            rows: What was computed from `rows`, `(buckets, width)`.

        Returns:
            `(2 * length - 1, width)`.
        """
        if self.indices is None:
            return rows.flip(0)
        if rows.is_cpu and not torch.compiler.is_compiling():
            return rows[self.indices]
        # Unlike that of indexing, the backward pass of a product needs no scatter, which on a GPU either sorts or adds
        # in any order; and code of torch.compile (PyTorch 2.13) for CPUs wrote past the end of its result.
        selection = self.indices[:, None] == torch.arange(len(rows), device=rows.device)
        return selection.to(rows.dtype) @ rows


def distance_embeddings(encoder: Any, length: int) -> Any:
    """Return the argument `rel_embeddings` of the layers of an encoder.

    Args:
        encoder: Encoder of a DeBERTa-v2 or v3 model.
        length: Number of tokens.

    Returns:
        `DistanceEmbeddings` where `BiasAttention` uses them, which depend on the length; otherwise the embeddings of
        all buckets as a tensor, or None without relative attention.
    """
    embeddings = encoder.get_rel_embedding()
    attention = encoder.layer[0].attention.self if len(encoder.layer) else None
    if not isinstance(attention, BiasAttention) or _is_exported():
        return embeddings
    return attention.distances(embeddings, length)


@functools.lru_cache(maxsize=256)
def distance_rows(
    length: int, span: int, n_buckets: int, max_distance: int, device: torch.device
) -> tuple[int, int, torch.Tensor | None]:
    """Return which rows of the embeddings the distances of texts need; the result is kept.

    Args:
        length: Number of tokens.
        span: Half the number of rows.
        n_buckets: Number of buckets of each sign; up to 0, distances are not put into buckets.
        max_distance: Distance from which on all are in the last bucket.
        device: Where the indices are.

    Returns:
        First row, last row, and the `indices` of `DistanceEmbeddings`, counted from the first row.
    """
    distances = torch.arange(length - 1, -length, -1)
    if n_buckets > 0 and max_distance > 0:
        distances = make_log_bucket_position(distances, n_buckets, max_distance).long()
    rows = (distances + span).clamp(0, 2 * span - 1)
    first, last = int(rows[-1]), int(rows[0])
    if torch.equal(rows, torch.arange(last, first - 1, -1)):
        return first, last, None
    with torch.inference_mode(False):  # the result is kept, and training cannot use tensors of inference mode
        return first, last, (rows - first).to(device, copy=True)


def _is_exported() -> bool:
    """Return whether a graph is exported, which must hold for every length."""
    return bool(torch.compiler.is_exporting() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def relative_scores(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the products of tokens with the rows of their distances to all tokens.

    Rows of the result are computed in blocks, because a block of n tokens needs only length + n - 1 distances.

    Args:
        tokens: `(units, heads, length, d)`.
        positions: Rows for the distances length - 1 to 1 - length, `(heads, 2 * length - 1, d)`.

    Returns:
        For token i and j the product of token i and the row of the distance i - j, `(units, heads, length, length)`.
    """
    length = tokens.shape[2]
    block = BLOCK_LENGTHS.get(tokens.device.type, length)
    if torch.compiler.is_compiling() or length <= block:  # a compiled graph holds for several lengths
        return shifted_rows(_products(tokens, positions))
    parts = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        table = _products(tokens[:, :, start:stop], positions[:, length - stop : 2 * length - 1 - start])
        parts.append(shifted_rows(table))
    return torch.cat(parts, dim=2)


def shifted_rows(table: torch.Tensor) -> torch.Tensor:
    """Return the rows of a table, each shifted by one column more than the row below it.

    Args:
        table: `(…, n, length + n - 1)`, contiguous in the last two dimensions.

    Returns:
        A view, `(…, n, length)`: row i begins at column n - 1 - i.
    """
    n, width = table.shape[-2:]
    if n == 1:
        return table
    # With one column less in each row, each begins one column later than the row above it.
    flat = table.flatten(-2)[..., n - 1 : n - 1 + n * (width - 1)]
    return flat.view(*flat.shape[:-1], n, width - 1)[..., : width - n + 1]


def _products(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return `(units, heads, length, d)` times `(heads, rows, d)`: without copies of the rows for each unit."""
    units, heads, length, width = tokens.shape
    folded = tokens.transpose(0, 1).reshape(heads, units * length, width)
    return torch.bmm(folded, positions.transpose(1, 2)).view(heads, units, length, -1).transpose(0, 1)
