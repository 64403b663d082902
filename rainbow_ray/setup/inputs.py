"""Modalities, encoders and folders that a run reads, resolved and checked before any row is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rainbow_ray.config.phases import get_phase
from rainbow_ray.config.schema import (
    DEFAULT_AUDIO_ENCODER,
    DEFAULT_ENCODER,
    EMBEDDED_ENCODER,
    Config,
    DataConfig,
    TextEncoderConfig,
)
from rainbow_ray.data.manifest import Manifest
from rainbow_ray.modalities.audio.encoder import (
    check_audio_encoder,
    describe_audio_encoder,
    sample_rate_of,
    verify_encoder,
)
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.selection import described_modalities, missing_packages, windowed
from rainbow_ray.modalities.spec import InputSpec, get_modality, modality_names
from rainbow_ray.modalities.windows import WINDOW_RATE, Windows
from rainbow_ray.utils.cache_dir import cache_dir
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.paths import folder_of, resolve_path

TEXT, AUDIO = "text", "audio"
# key and default name of each pretrained encoder, by modality
PRETRAINED = {
    TEXT: ("model.text_encoder.model_name", DEFAULT_ENCODER),
    AUDIO: ("model.audio_encoder.model_name", DEFAULT_AUDIO_ENCODER),
}


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder that can be used.

    Attributes:
        name: Hub name, folder, or `embedded`; empty where the modality is not read.
        max_tokens: Maximum number of tokens of a text, special tokens included; 0 of other modalities.
        warnings: Messages about the encoder.
        sample_rate: Sample rate in Hz of the windows that it reads, of audio.
    """

    name: str = ""
    max_tokens: int = 0
    warnings: tuple[str, ...] = ()
    sample_rate: int = WINDOW_RATE


def modalities_of(config: Config) -> tuple[str, ...]:
    """Return the modalities that a config reads.

    Args:
        config: The config; unknown names in it are ignored, since `validate` reports them.

    Returns:
        Names in the order of the registry.
    """
    requested = config.modalities if config.modalities is not None else get_phase(config.phase).modalities
    return tuple(name for name in modality_names() if name in requested)


def resolve_encoders(config: Config, *, demo: bool) -> Config:
    """Return a config with default encoders where it names none.

    Args:
        config: The config; it is left as it is.
        demo: Whether the built-in songs are read, whose default encoders are embedded.

    Returns:
        A copy in which the pretrained encoders of all modalities that are read have names.
    """
    modalities = modalities_of(config)
    defaults = {
        key: EMBEDDED_ENCODER if demo else default
        for modality, (key, default) in PRETRAINED.items()
        if modality in modalities
    }
    return config.with_values({key: name for key, name in defaults.items() if not config.at(key)})


def resolve_descriptors(config: Config, *, has_segments: bool) -> Config:
    """Return a config that says of each modality whether its descriptors are read.

    Args:
        config: The config; it is left as it is.
        has_segments: Whether examples are segments, whose descriptors are not read by default.

    Returns:
        A copy in which the settings of all modalities that are read have a value.
    """
    specs = [get_modality(name) for name in modalities_of(config)]
    defaults = {
        spec.descriptors_setting: not has_segments and spec.can_describe() for spec in specs if spec.descriptors_setting
    }
    return config.with_values({key: value for key, value in defaults.items() if config.at(key) is None})


def resolve_inputs(
    config: Config, modalities: Sequence[str], manifest: Manifest | None, root: Path | None = None
) -> tuple[InputSpec, list[str]]:
    """Resolve and check the inputs of each example: modalities, encoders and the folder of media.

    Args:
        config: A config whose encoders have names.
        modalities: Modalities that are read.
        manifest: The table, or None if it cannot be opened.
        root: Folder that relative paths of media start from if the config names none; None: the manifest's folder.

    Returns:
        The modalities with their encoders and readers; and warnings.

    Raises:
        InputError: Encoders cannot be used, or the folder does not exist.
    """
    problems: list[str] = []
    encoders: dict[str, Encoder] = {}
    try:
        encoders = check_encoders(config, modalities)
    except InputError as error:
        problems += error.problems
    problems += missing_packages(modalities, config.model)
    media = windowed(modalities)
    root = root if root is not None and config.data.media_root is None else _media_root(config.data, manifest)
    if media and not root.is_dir():
        problems.append(f"--media-root {root}: no such folder; audio and MIDI are looked for there")
    if problems:
        raise InputError(problems)
    text = encoders.get(TEXT, Encoder())
    warnings = [warning for encoder in encoders.values() for warning in encoder.warnings]
    if not media:
        return InputSpec(tuple(modalities), text.name, text.max_tokens), warnings
    data = config.data
    audio = encoders[AUDIO].name if AUDIO in encoders else None
    described = described_modalities(media, config.model)
    sample_rate = encoders.get(AUDIO, Encoder()).sample_rate
    reader = _media_reader(config, media, root, described, sample_rate)
    spec = InputSpec(tuple(modalities), text.name, text.max_tokens, audio, data.window_seconds, reader, described)
    return spec, warnings


def check_encoders(config: Config, modalities: Sequence[str]) -> dict[str, Encoder]:
    """Return the pretrained encoders of the modalities that are read.

    Args:
        config: A config whose encoders have names.
        modalities: Modalities that are read.

    Returns:
        Encoders by modality; modalities without pretrained encoder are left out.

    Raises:
        InputError: Encoders cannot be loaded or do not fit the config; all of them are listed.
    """
    problems: list[str] = []
    encoders: dict[str, Encoder] = {}
    for modality, check in _CHECKS.items():
        if modality not in modalities:
            continue
        try:
            encoders[modality] = check(config)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return encoders


def _media_root(config: DataConfig, manifest: Manifest | None) -> Path:
    if config.media_root is not None:
        return resolve_path(config.media_root)
    return (folder_of(manifest.location) if manifest is not None else None) or Path.cwd()


def _media_reader(
    config: Config, media: tuple[str, ...], root: Path, described: tuple[str, ...], sample_rate: int
) -> MediaReader:
    data = config.data
    windows = Windows(data.window_seconds, data.window_position, data.windows_per_stem, config.split_seed, sample_rate)
    folder = resolve_path(data.media_cache) if data.media_cache is not None else cache_dir("media")
    return MediaReader(
        media,
        root.resolve(),
        windows,
        folder.resolve(),
        cache_without_files=data.media_cache is not None,
        described=described,
    )


def _check_text_encoder(config: Config) -> Encoder:
    from rainbow_ray.modalities.text import encoder as text_encoder
    from rainbow_ray.modalities.text.tokenize import token_limit

    options = config.model.text_encoder
    name = str(options.model_name)
    encoder_config = text_encoder.load_config(name)
    problems = text_encoder.check_encoder(name, options, encoder_config)
    if problems:
        raise InputError(problems)
    warnings = list(text_encoder.verify_encoder(name))
    limit = token_limit(name, options, encoder_config)
    if limit < options.max_length != TextEncoderConfig().max_length:
        warnings.append(f"model.text_encoder.max_length: {options.max_length}, but this encoder reads {limit} tokens")
    return Encoder(name, limit, tuple(warnings))


def _check_audio_encoder(config: Config) -> Encoder:
    name = str(config.model.audio_encoder.model_name)
    problems = check_audio_encoder(name, config.model.audio_encoder, config.data.window_seconds)
    if problems:
        raise InputError(problems)
    verify_encoder(name)
    notes = describe_audio_encoder(name, config.model.audio_encoder, config.data.window_seconds)
    return Encoder(name, warnings=tuple(notes), sample_rate=sample_rate_of(name))


_CHECKS: Mapping[str, Callable[[Config], Encoder]] = {TEXT: _check_text_encoder, AUDIO: _check_audio_encoder}
