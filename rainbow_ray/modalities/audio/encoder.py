"""Audio encoders: a waveform model of transformers, read at any layer and frozen to any depth, or a small net of ours.

Each has a constant part, whose result is stored by window, and a part that learns. Windows are all of one length, since
models with a group norm over time (Wav2Vec2's first convolution) give other values for padded ones.
Shapes: `waves` `(units, samples)`, hidden states `(units, frames, width)`, tokens `(units, tokens, width)`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.data.sample_rates import NOT_A_RATE, parse_sample_rate
from rainbow_ray.modalities import pretrained
from rainbow_ray.modalities.array_cache import hash_of
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.media import as_float
from rainbow_ray.utils.errors import InputError

EMBEDDED = "embedded"
# laid out as Wav2Vec2 is: convolutions, a projection, positions, layers
FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
KEY = "model.audio_encoder"
MELS, HOP, FFT = 64, 320, 1024  # 20 ms a frame
QUIET = 1e-5


class AudioEncoder(Protocol):
    """What the model asks of one."""

    width: int
    summary_width: int
    trains_feature_extractor: bool  # nothing is constant: `forward` reads waves

    def constant(self, waves: torch.Tensor) -> torch.Tensor:
        """What never changes of some windows, time along the second axis."""

    def identity(self) -> str:
        """Names what `constant` depends on beside the window."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Tokens `(units, tokens, width)` of constants, or of waves."""

    def summary(self, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Means and spreads over time, `(units, summary_width)`, fixed where something is constant."""


def load_config(name: str) -> Any:
    """The config of a waveform model. Raises `InputError` for one that is not to be had, or reads something else."""
    config = pretrained.read_config(name, pretrained.source_of(name), pretrained.AUDIO)
    if config.model_type not in FAMILIES:
        raise InputError(f"{KEY}.model_name: {name!r} is a {config.model_type!r} model, which does not read waveforms;"
                         f" supported are {', '.join(FAMILIES)}, and `embedded`")  # fmt: skip
    return config


def load_body(name: str) -> Any:
    """The model with its weights, in fp32.

    Raises:
        InputError: Weights are missing, damaged, or another model's.
    """
    return pretrained.read_weights(name, pretrained.source_of(name), pretrained.AUDIO)


@functools.cache
def verify_encoder(name: str) -> None:
    """Load an encoder once to see that it can be trained on, and let it go. Raises `InputError` where it cannot."""
    if name == EMBEDDED:
        return
    load_body(name)
    wants_normalised(name)


@functools.cache
def wants_normalised(name: str) -> bool:
    """Whether windows are brought to mean 0 and variance 1 first, as the model's own preprocessor says.

    Raises:
        InputError: The preprocessor is damaged, or made for another sample rate.
    """
    preprocessor = pretrained.read_preprocessor(name, pretrained.source_of(name), pretrained.AUDIO)
    said = getattr(preprocessor, "sampling_rate", None)
    rate = parse_sample_rate(said)  # a number as text is one; where none is said, encoders read what windows have
    if rate is not None and rate != RATE:
        wrong = f"its preprocessor's sampling_rate, {said!r}, is no sample rate in Hz" if rate <= NOT_A_RATE else \
                f"it reads sound at {rate} Hz, and windows have {RATE} Hz"  # fmt: skip
        raise InputError(f"{KEY}.model_name: {name!r} cannot be used: {wrong}")
    return bool(getattr(preprocessor, "do_normalize", True))


def check_audio_encoder(name: str, config: AudioEncoderConfig, seconds: float) -> list[str]:
    """What is wrong with the encoder's name and depths. Raises `InputError` when it is not to be had."""
    if name == EMBEDDED:
        return []
    body_config = load_config(name)
    if round(seconds * RATE) < receptive_field(body_config):
        return [f"data.window_seconds: {seconds:g} is less than what {name!r} needs to see"]
    return check_depths(config, body_config.num_hidden_layers)


def check_depths(config: AudioEncoderConfig, total: int) -> list[str]:
    problems = []
    for key, value, word in (
        ("layer", config.layer, ("last", "mix")),
        ("freeze_layers", config.freeze_layers, ("all",)),
    ):
        if isinstance(value, str) and value not in word:
            problems.append(f"{KEY}.{key}: {value!r} is none of: {', '.join(word)}, a number of layers, a fraction")
        elif isinstance(value, int) and value > total:
            problems.append(f"{KEY}.{key}: {value} is beyond the encoder, which has {total} layers")
    return problems


def receptive_field(body_config: Any) -> int:
    """Samples that one frame looks at."""
    field, step = 1, 1
    for kernel, stride in zip(body_config.conv_kernel, body_config.conv_stride, strict=True):
        field, step = field + (kernel - 1) * step, step * stride
    return field


def make_audio_encoder(body: Any, config: AudioEncoderConfig, *, normalise: bool = True, weights: str = "") -> Any:
    """The encoder of a config; `body` is None for the embedded net. `weights` identifies its tensors."""
    return LogMelNet(config) if body is None else WaveformEncoder(body, config, normalise=normalise, weights=weights)


def average_pool_time(frames: torch.Tensor, tokens: int) -> torch.Tensor:
    """Averages over equal stretches of time: `(units, tokens, …)` from `(units, frames, …)`."""
    n = frames.shape[1]
    if n <= tokens:
        return frames
    of = torch.arange(n, device=frames.device) * tokens // n
    spread = nn.functional.one_hot(of, tokens).to(frames.dtype)  # a product is deterministic on every device
    return torch.einsum("un...,nt->ut...", frames, spread / spread.sum(0))


def mean_std_pool(frames: torch.Tensor) -> torch.Tensor:
    """Over time: `(units, 2 × width)` from `(units, frames, width)`."""
    frames = frames.float()
    return torch.cat([frames.mean(dim=1), frames.std(dim=1, correction=0)], dim=1)


def spec_augment(values: torch.Tensor, config: AudioEncoderConfig) -> torch.Tensor:
    """SpecAugment (Park et al. 2019): one stretch of time and one of features of each unit become 0."""
    for axis, share in ((1, config.mask_time), (-1, config.mask_features)):
        size = values.shape[axis]
        longest = int(share * size)
        if longest < 1:
            continue
        length = torch.randint(0, longest + 1, (len(values), 1), device=values.device)
        start = (torch.rand(len(values), 1, device=values.device) * (size - length + 1)).long()
        at = torch.arange(size, device=values.device)[None]
        hidden = (at >= start) & (at < start + length)
        shape = [len(values)] + [1] * (values.ndim - 1)
        shape[axis] = size
        values = values.masked_fill(hidden.view(shape), 0.0)
    return values


class LogMelNet(nn.Module):
    """Log-mel spectra, then three convolutions that are trained from scratch; needs no download."""

    trains_feature_extractor = False
    window: torch.Tensor
    mels: torch.Tensor

    def __init__(self, config: AudioEncoderConfig) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.config, self.width, self.summary_width = config, config.hidden_size, 2 * MELS
        bank = mel_filter_bank(FFT // 2 + 1, MELS, 30.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.register_buffer("mels", torch.from_numpy(bank).float(), persistent=False)
        width = config.hidden_size
        layers: list[nn.Module] = []
        for inputs, stride in ((MELS, 2), (width, 2), (width, 2)):
            layers += [nn.Conv1d(inputs, width, 5, stride, padding=2), nn.GroupNorm(1, width), nn.GELU()]
        self.net = nn.Sequential(*layers)

    def constant(self, waves: torch.Tensor) -> torch.Tensor:
        """Log-mel spectra, roughly between -1 and 1: `(units, frames, MELS)`."""
        spectra = torch.stft(waves.float(), FFT, HOP, window=self.window, return_complex=True).abs() ** 2
        mels = torch.einsum("uft,fm->utm", spectra, self.mels)
        return (torch.log10(mels.clamp(min=QUIET)) + 1.5) / 3.5

    def identity(self) -> str:
        return hash_of("log-mel 1", MELS, HOP, FFT)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = spec_augment(values, self.config) if self.training else values
        return average_pool_time(self.net(values.transpose(1, 2)).transpose(1, 2), self.config.num_tokens)

    def summary(self, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return mean_std_pool(values)

    def parameters_by_depth(self) -> Iterator[tuple[int, nn.Parameter]]:
        return iter(())  # none came trained


class WaveformEncoder(nn.Module):
    """A model of `FAMILIES`, cut off at the layer that is read.

    The convolutions are frozen by `freeze_front`, the first `frozen` layers (and what lies between) by
    `freeze_layers`. What lies below the first trained part is constant.
    """

    def __init__(self, body: Any, config: AudioEncoderConfig, *, normalise: bool, weights: str) -> None:
        super().__init__()
        total = body.config.num_hidden_layers
        if problems := check_depths(config, total):
            raise InputError(problems)
        self.config, self.normalise, self.weights = config, normalise, weights
        self.mixed = config.layer == "mix"
        self.depth = total if self.mixed else _layer_number(config.layer, total)
        self.whole = self.depth == total
        self.frozen = min(_layer_number(config.freeze_layers, total), self.depth)
        self.between_frozen = self.frozen > 0 or config.freeze_layers == "all"
        self.width = int(body.config.hidden_size)
        self.summary_width = 2 * self.width
        del body.encoder.layers[self.depth :]
        body.masked_spec_embed = None  # never read, and DDP would wait for its gradient
        self.body = body
        self.stable = bool(getattr(body.config, "do_stable_layer_norm", False))
        if self.stable and not self.whole:
            body.encoder.layer_norm = nn.Identity()  # it follows the last layer alone
        if self.mixed:
            # scalar mix of ELMo (Peters et al. 2018, eq. 1)
            self.mix_weights = nn.Parameter(torch.zeros(self.depth + 1))
            self.mix_scale = nn.Parameter(torch.ones(()))
        self._freeze()

    @property
    def trains_feature_extractor(self) -> bool:
        return not self.config.freeze_feature_extractor

    @property
    def all_constant(self) -> bool:
        """Whether nothing learns up to the layer that is read."""
        return not self.trains_feature_extractor and self.between_frozen and self.frozen == self.depth

    def constant(self, waves: torch.Tensor) -> torch.Tensor:
        """After the convolutions, or after the frozen layers; as tokens where nothing learns.

        `(units, frames, width)`, with a learned mix `(units, frames, layers + 1, width)` from the frozen layers on.
        """
        assert not self.trains_feature_extractor
        features = self._front(waves)
        if not self.between_frozen:
            return features
        states = self._run([self._embed(features)], 0, self.frozen)
        hidden = torch.stack(states, dim=2) if self.mixed else states[-1]
        return average_pool_time(hidden, self.config.num_tokens) if self.all_constant else hidden

    def identity(self) -> str:
        stage = (self.between_frozen, self.frozen, self.mixed, self.whole and self.frozen == self.depth)
        pooled = self.config.num_tokens if self.all_constant else None
        body = self.body.config
        return hash_of(self.weights, stage, pooled, self.normalise, body._attn_implementation, torch.__version__)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.trains_feature_extractor:
            states = self._run([self._embed(self._front(self._shaken(values)))], 0, self.depth)
        elif not self.between_frozen:
            states = self._run([self._embed(values)], 0, self.depth)
        else:
            values = spec_augment(values, self.config) if self.training else values
            states = list(values.unbind(2)) if self.mixed else [values]
            states = self._run(states, self.frozen, self.depth)
        hidden = states[-1]
        if self.mixed:
            shares = torch.softmax(self.mix_weights, dim=0).to(hidden.dtype)
            hidden = self.mix_scale * torch.einsum("k,utkw->utw", shares, torch.stack(states, dim=2))
        return average_pool_time(hidden, self.config.num_tokens)

    def summary(self, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        if self.trains_feature_extractor or not self.between_frozen:
            return mean_std_pool(tokens)
        return mean_std_pool(values[:, :, -1] if self.mixed else values)

    def constant_tensors(self) -> list[str]:
        """Names, in the body, of what is never trained."""
        return [name for name, parameter in self.body.named_parameters() if not parameter.requires_grad]

    def parameters_by_depth(self) -> Iterator[tuple[int, nn.Parameter]]:
        """Trained parameters that came trained, with how deep they lie: 0 below the first layer."""
        depth_of = {id(p): i + 1 for i, layer in enumerate(self.body.encoder.layers) for p in layer.parameters()}
        for parameter in self.body.parameters():
            if parameter.requires_grad:
                yield depth_of.get(id(parameter), 0), parameter

    def train(self, mode: bool = True) -> WaveformEncoder:
        """Frozen parts stay in eval mode."""
        super().train(mode)
        if self.config.freeze_feature_extractor:
            self.body.feature_extractor.eval()
        if self.between_frozen:
            for part in (self.body.feature_projection, self.body.encoder.pos_conv_embed, self.body.encoder.dropout):
                part.eval()
        for index, layer in enumerate(self.body.encoder.layers):
            layer.train(mode and index >= self.frozen)
        return self

    def _front(self, waves: torch.Tensor) -> torch.Tensor:
        if self.normalise:
            waves = (waves - waves.mean(1, keepdim=True)) / (waves.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
        out: torch.Tensor = self.body.feature_extractor(waves).transpose(1, 2)
        return out

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        """What goes into the first layer."""
        projected = self.body.feature_projection(features)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        encoder = self.body.encoder
        hidden = hidden + encoder.pos_conv_embed(hidden)
        out: torch.Tensor = encoder.dropout(hidden if self.stable else encoder.layer_norm(hidden))
        return out

    def _run(self, states: list[torch.Tensor], start: int, stop: int) -> list[torch.Tensor]:
        """Layers on top of the last of `states`; all of them where a mix is learned, otherwise the last."""
        encoder, hidden = self.body.encoder, states[-1]
        arguments: dict[str, Any] = {"attention_mask": None}
        if self.body.config.model_type == "wavlm" and start < stop:
            arguments["position_bias"] = self._position_bias(hidden)
        for index in range(start, stop):
            after = encoder.layers[index](hidden, **arguments, **({"index": index} if len(arguments) > 1 else {}))
            hidden = after[0] if isinstance(after, tuple) else after
            if self.stable and self.whole and index + 1 == self.depth:
                hidden = encoder.layer_norm(hidden)
            states = [*states, hidden] if self.mixed else [hidden]
        return states

    def _position_bias(self, hidden: torch.Tensor) -> torch.Tensor:
        """WavLM's first layer holds what all layers are told of positions."""
        attention, length = self.body.encoder.layers[0].attention, hidden.shape[1]
        bias: torch.Tensor = attention.compute_bias(length, length)
        return bias.unsqueeze(0).repeat(len(hidden), 1, 1, 1).view(-1, length, length)

    def _shaken(self, waves: torch.Tensor) -> torch.Tensor:
        """Louder or softer, and with noise: only waveforms that are trained on."""
        if not self.training:
            return waves
        gain = (2 * torch.rand(len(waves), 1, device=waves.device) - 1) * self.config.gain_db
        waves = waves * 10 ** (gain / 20)
        if self.config.noise_db is None:
            return waves
        level = waves.pow(2).mean(1, keepdim=True).sqrt() * 10 ** (self.config.noise_db / 20)
        return waves + level * torch.randn_like(waves)

    def _freeze(self) -> None:
        body = self.body
        frozen = {id(p) for layer in body.encoder.layers[: self.frozen] for p in layer.parameters()}
        in_layers = {id(p) for layer in body.encoder.layers for p in layer.parameters()}
        front = {id(p) for p in body.feature_extractor.parameters()}
        for parameter in body.parameters():
            if id(parameter) in front:
                learns = not self.config.freeze_feature_extractor
            elif id(parameter) in in_layers:
                learns = id(parameter) not in frozen
            else:
                learns = not self.between_frozen
            parameter.requires_grad_(learns)
            if learns:
                parameter.data = parameter.data.clone()  # the base's tensor may belong to others too


def as_waves(windows: list[np.ndarray]) -> torch.Tensor:
    """Windows of one length as `(units, samples)`, float32."""
    return torch.from_numpy(np.stack([as_float(window) for window in windows]))


def _layer_number(value: int | float | str, total: int) -> int:
    if isinstance(value, str):
        return total
    return value if isinstance(value, int) else round(value * total)
