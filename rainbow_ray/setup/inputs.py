"""What is read, with which encoders and from which folder: settled and checked before any row is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rainbow_ray.config.load import known_keys
from rainbow_ray.config.phases import get_phase
from rainbow_ray.config.schema import DEFAULT_AUDIO_ENCODER, DEFAULT_ENCODER, Config, DataConfig, TextEncoderConfig
from rainbow_ray.data.manifest import Manifest
from rainbow_ray.modalities.array_cache import default_cache_dir
from rainbow_ray.modalities.audio.encoder import EMBEDDED, check_audio_encoder, verify_encoder
from rainbow_ray.modalities.media import MediaReader, Windows
from rainbow_ray.modalities.spec import MODALITIES, InputSpec
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.paths import folder_of, resolve_path


def modalities_of(config: Config) -> tuple[str, ...]:
    """What is read, in the order of `MODALITIES`; names that are not known are left to `_check_phase`."""
    asked = config.modalities if config.modalities is not None else get_phase(config.phase).modalities
    return tuple(name for name in MODALITIES if name in asked)


def resolve_encoders(config: Config, *, demo: bool) -> None:
    """Put default encoders where the config names none."""
    text_encoder, audio_encoder, modalities = (
        config.model.text_encoder,
        config.model.audio_encoder,
        modalities_of(config),
    )
    if "text" in modalities:
        text_encoder.model_name = text_encoder.model_name or (EMBEDDED if demo else DEFAULT_ENCODER)
    if "audio" in modalities:
        audio_encoder.model_name = audio_encoder.model_name or (EMBEDDED if demo else DEFAULT_AUDIO_ENCODER)


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
    media = tuple(name for name in modalities if name != "text")
    root = root if root is not None and config.data.media_root is None else _media_root(config.data, manifest)
    if media and not root.is_dir():
        problems.append(f"--media-root {root}: no such folder; audio and MIDI are looked for there")
    if problems or found is None:
        raise InputError(problems)
    name, limit, audio, warnings = found
    if not media:
        return InputSpec(("text",), name, limit), warnings
    data = config.data
    windows = Windows(data.window_seconds, data.window_position, data.windows_per_stem, config.split_seed)
    folder = resolve_path(data.media_cache) if data.media_cache is not None else default_cache_dir()
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

    options = config.model.text_encoder
    name = str(options.model_name)
    body_config = text_encoder.load_config(name)
    problems = text_encoder.check_encoder(name, options, body_config)
    if problems:
        raise InputError(problems)
    warnings = []
    if options.hidden_size not in (None, body_config.hidden_size):
        warnings.append(f"model.text_encoder.hidden_size: {options.hidden_size} has no effect: this encoder's is"
                        f" {body_config.hidden_size}")  # fmt: skip
    warnings += text_encoder.verify_encoder(name)
    limit = text_encoder.token_limit(name, options, body_config)
    if limit < options.max_length != TextEncoderConfig().max_length:
        warnings.append(f"model.text_encoder.max_length: {options.max_length}, but this encoder reads {limit} tokens")
    return name, limit, warnings


def idle_modalities(config: Config, modalities: Sequence[str]) -> dict[str, str]:
    """Keys of what is not read."""
    media = [name for name in modalities if name != "text"]
    sections = {"text": "model.text_encoder.", "audio": "model.audio_encoder.", "midi": "model.midi_encoder."}
    keys = known_keys()
    idle = {
        key: f"{name} is not among the modalities"
        for name, section in sections.items()
        if name not in modalities
        for key in keys
        if key.startswith(section)
    }
    if not media:
        shared = ("data.example_level", "data.media_", "data.window_", "data.windows_per_stem",
                  "data.max_unreadable_fraction", "data.audio_column",
                  "data.midi_column", "model.fusion.")  # fmt: skip
        used = _keys_of_lyrics(config)
        idle |= {key: "only text is read" for key in keys if key.startswith(shared) and key not in used}
    if "text" not in modalities:
        idle |= {key: "text is not among the modalities" for key in keys if key.startswith("model.bag_of_words.")}
    if "audio" in modalities and config.model.audio_encoder.model_name == EMBEDDED:
        own = ("layer", "freeze_front", "freeze_layers", "gain_db", "noise_db")
        idle |= {f"model.audio_encoder.{key}": "the embedded net has no such part" for key in own}
    elif "audio" in modalities and config.model.audio_encoder.freeze_feature_extractor:
        idle |= {f"model.audio_encoder.{key}": "waveforms are not trained on" for key in ("gain_db", "noise_db")}
    if config.model.fusion.kind != "cross_attention":
        idle |= {f"model.fusion.{key}": "only with cross_attention" for key in ("layers", "heads", "dropout")}
    return idle


def _keys_of_lyrics(config: Config) -> tuple[str, ...]:
    """Keys of media that matter where timelines are made of LRC files, whatever the modalities."""
    makes_timelines = get_phase(config.phase).task == "segmentation" and config.segments.path is None
    return ("data.media_root", "data.max_unreadable_fraction") if makes_timelines else ()
