"""The section `data`: which table is read, what is predicted, and how songs are split."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from rainbow_ray.config.choices import MAX_WINDOWS, AllWindows, ClassPolicy, ExampleLevel, TableReader, WindowPosition
from rainbow_ray.config.section import Fraction, Names, NonNegativeInt, OpenFraction, PositiveInt, Section, Seed

DEFAULT_MANIFEST = "data/base_manifest_db.parquet"


class DataConfig(Section):
    """Input table, labels, splits, and windows of audio and MIDI."""

    renamed: ClassVar[Names] = {
        "resident_limit": "in_memory_limit_mb",
        "unit": "example_level",
        "views": "windows_per_stem",
        "max_bad_media": "max_unreadable_fraction",
    }

    manifest_path: str | None = Field(
        None,
        description="parquet file, folder of parquet files, or URL; `demo`: the built-in songs;"
        f" null: {DEFAULT_MANIFEST} if it exists, otherwise the built-in songs",
    )
    id_column: str = Field(
        "id",
        description="column that identifies the song; all rows of a song are on the same side of a split; tables of"
        " segments default to song_id",
    )
    text_columns: list[str] = Field(
        ["concept"],
        min_length=1,
        description="columns that are joined with a blank line to form the text; tables of segments default to"
        " lyric_text",
    )
    target_column: str | None = Field(
        None, description="column, or field of the column training_data, with the labels; null: that of the phase"
    )
    target_type: str | None = Field(
        None, description="task of the target: binary, multiclass or regression; null: that of the phase"
    )
    multi_label: bool = Field(
        False, description="whether a song can have several classes, as a list or as delimited text"
    )
    label_delimiter: str | None = Field(None, description="delimiter between the classes of a song; null: any of , ; |")
    class_mapping: dict[str, str | int | None] | None = Field(
        None,
        description="{label: class} renames or merges labels; {label: null} drops them; {label: number} also orders"
        " the classes",
    )
    unknown_classes: ClassPolicy = Field("error", description="what to do with labels that are not in class_mapping")
    null_class: str | None = Field(None, description="class of songs without a label; null: these songs are dropped")
    rare_classes: ClassPolicy = Field(
        "drop", description="what to do with classes that have fewer songs than min_songs_per_class"
    )
    min_songs_per_class: PositiveInt = Field(2, description="minimum number of songs of a class; see rare_classes")
    target_bounds: tuple[float | None, float | None] | None = Field(
        None, description="[min, max] of a numeric target; predictions are clipped to it; null: unbounded"
    )
    train_split: OpenFraction = Field(0.8, description="fraction of songs for training; only with folds: 1")
    val_split: OpenFraction = Field(0.2, description="fraction of songs for validation; only with folds: 1")
    folds: PositiveInt | None = Field(
        None,
        description="number of cross-validation folds; 1: a single split; null: 5 below 500 songs, otherwise 1",
    )
    split_by: str = Field(
        "id",
        description="what a split keeps together: id (rows of a song and songs with equal text), the name of a column,"
        " or row (nothing; leaks between training and validation)",
    )
    split_file: str | None = Field(
        None, description="split.json of an earlier run; songs listed in it keep their fold; null: a new split"
    )
    random_seed: Seed | None = Field(None, description="seed of the split; null: reproducibility.seed")
    example_level: ExampleLevel | None = Field(
        None, description="what one example is: a song with all its stems, or one stem; null: that of the phase"
    )
    media_root: str | None = Field(
        None, description="folder that relative paths of audio and MIDI files start from; null: the manifest's folder"
    )
    audio_column: str = Field(
        "audio_file",
        description="column of paths, or of encoded audio files; the column audio_waveform has precedence over it",
    )
    midi_column: str = Field(
        "midi_file",
        description="column of paths, or of MIDI files; the column midi_binary has precedence over it",
    )
    window_seconds: Annotated[float, Field(gt=0.0, le=600.0)] = Field(
        10.0, description="length in seconds of the window of audio and MIDI that is read from each stem"
    )
    window_position: WindowPosition = Field("middle", description="position of the first window in the recording")
    windows_per_stem: PositiveInt | AllWindows = Field(
        1,
        description="number of windows per stem, of which those after the first have random positions; all: windows one"
        f" after the other from start to end, at most {MAX_WINDOWS}, at equal distances in longer stems. Training draws"
        " one per stem and epoch, scores are computed from all",
    )
    max_unreadable_fraction: Fraction = Field(
        0.2, description="maximum fraction of media files that may be missing or damaged; more is an error"
    )
    media_cache: str | None = Field(
        None, description="cache folder for decoded audio and MIDI; null: ~/.cache/rainbow_ray"
    )
    in_memory_limit_mb: NonNegativeInt = Field(
        1024, description="maximum size in MB of uncompressed data kept in memory; larger data are streamed every epoch"
    )
    reader: TableReader = Field(
        "auto",
        description="what reads a table that fits into memory: ray (tasks of Ray Data, in parallel), driver (the"
        " process of the command), or auto (the driver where the table is small and no audio or MIDI is read)",
    )
    require_concept: bool | None = Field(
        None, description="whether rows without text are dropped; null: only if neither audio nor MIDI are read"
    )
    min_concept_length: NonNegativeInt = Field(
        50, description="minimum length of the text in characters, where text is required"
    )

    @field_validator("class_mapping", mode="before")
    @classmethod
    def _read_labels_as_text(cls, value: Any) -> Any:
        # numbers can be labels; for what YAML reads as true or false, the spelling that the user meant is unknown
        if not isinstance(value, dict):
            return value
        if any(isinstance(part, bool) for pair in value.items() for part in pair):
            raise ValueError("write labels such as yes, no, true and false in quotes")
        if any(isinstance(part, str) and not part.strip() for part in value.values()):
            raise ValueError("a class needs a name")
        return {str(label): name.strip() if isinstance(name, str) else name for label, name in value.items()}
