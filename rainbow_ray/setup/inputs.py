"""What is read, with which encoders and from which folder: settled and checked before any row is read."""

from __future__ import annotations

from collections.abc import Sequence
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
from rainbow_ray.modalities.audio.encoder import check_audio_encoder, verify_encoder
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.spec import InputSpec, modality_names, windowed
from rainbow_ray.modalities.windows import Windows
from rainbow_ray.utils.cache_dir import cache_dir
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.paths import folder_of, resolve_path

# modality, section of `model` and default of each encoder with a name
PRETRAINED = (
    ("text", "text_encoder", DEFAULT_ENCODER),
    ("audio", "audio_encoder", DEFAULT_AUDIO_ENCODER),
)


def modalities_of(config: Config) -> tuple[str, ...]:
    """What is read, in the order of the registry; names that are not known are left to `_check_phase`."""
    asked = config.modalities if config.modalities is not None else get_phase(config.phase).modalities
    return tuple(name for name in modality_names() if name in asked)


def resolve_encoders(config: Config, *, demo: bool) -> Config:
    """Return a config with default encoders where it names none.

    Args:
        config: The config; it is left as it is.
        demo: Whether the built-in songs are read, whose default encoders are embedded.

    Returns:
        A copy in which the encoders of all modalities that are read have names.
    """
    modalities = modalities_of(config)
    defaults = {
        f"model.{section}.model_name": EMBEDDED_ENCODER if demo else default
        for modality, section, default in PRETRAINED
        if modality in modalities
    }
    return config.with_values({key: name for key, name in defaults.items() if not config.at(key)})


def resolve_inputs(
    config: Config, modalities: Sequence[str], manifest: Manifest | None, root: Path | None = None
) -> tuple[InputSpec, list[str]]:
    """What is read with which encoders, and warnings. Raises `InputError` with all that is wrong.

    `root` is where media lie if the config does not say; by default the manifest's folder.
    """
    problems = []
    found = None
    try:
        found = check_encoders(config, modalities)
    except InputError as error:
        problems += error.problems
    media = windowed(modalities)
    root = root if root is not None and config.data.media_root is None else _media_root(config.data, manifest)
    if media and not root.is_dir():
        problems.append(f"--media-root {root}: no such folder; audio and MIDI are looked for there")
    if problems or found is None:
        raise InputError(problems)
    name, limit, audio, warnings = found
    if not media:
        return InputSpec(tuple(modalities), name, limit), warnings
    data = config.data
    windows = Windows(data.window_seconds, data.window_position, data.windows_per_stem, config.split_seed)
    folder = resolve_path(data.media_cache) if data.media_cache is not None else cache_dir("media")
    reader = MediaReader(
        media, root.resolve(), windows, folder.resolve(), cache_without_files=data.media_cache is not None
    )
    return InputSpec(tuple(modalities), name, limit, audio, data.window_seconds, reader), warnings


def _media_root(config: DataConfig, manifest: Manifest | None) -> Path:
    if config.media_root is not None:
        return resolve_path(config.media_root)
    return (folder_of(manifest.location) if manifest is not None else None) or Path.cwd()


def check_encoders(config: Config, modalities: Sequence[str]) -> tuple[str, int, str | None, list[str]]:
    """The text encoder's name and how many tokens it reads, the audio encoder's name, and warnings.

    Raises `InputError` with all that is wrong with them.
    """
    problems: list[str] = []
    warnings: list[str] = []
    name, limit, audio = "", 0, None
    if "text" in modalities:
        try:
            name, limit, warnings = _check_text_encoder(config)
        except InputError as error:
            problems += error.problems
    if "audio" in modalities:
        audio = str(config.model.audio_encoder.model_name)
        try:
            found = check_audio_encoder(audio, config.model.audio_encoder, config.data.window_seconds)
            problems += found
            if not found:
                verify_encoder(audio)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return name, limit, audio, warnings


def _check_text_encoder(config: Config) -> tuple[str, int, list[str]]:
    """Where the encoder is, how many tokens it reads, and warnings."""
    from rainbow_ray.modalities.text import encoder as text_encoder
    from rainbow_ray.modalities.text.tokenize import token_limit

    options = config.model.text_encoder
    name = str(options.model_name)
    body_config = text_encoder.load_config(name)
    problems = text_encoder.check_encoder(name, options, body_config)
    if problems:
        raise InputError(problems)
    warnings = list(text_encoder.verify_encoder(name))
    limit = token_limit(name, options, body_config)
    if limit < options.max_length != TextEncoderConfig().max_length:
        warnings.append(f"model.text_encoder.max_length: {options.max_length}, but this encoder reads {limit} tokens")
    return name, limit, warnings
