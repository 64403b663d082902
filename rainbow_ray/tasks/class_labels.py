"""Labels to class names: mapping, unknown names, and classes that too few songs have.

Everything that is left out, joined or renamed is count_names and named, so that nothing vanishes unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rainbow_ray.config.schema import DataConfig, TrainingConfig
from rainbow_ray.data.text_cells import label_name
from rainbow_ray.tasks.label_cells import doubtful_names
from rainbow_ray.utils.errors import InputError, did_you_mean, format_names

OTHER = "other"
UNKNOWN = "label that data.class_mapping lacks"
MAPPED_AWAY = "label that data.class_mapping leaves out"
RARE = "class of too few songs"
MAX_CLASSES = 1000  # a column with more distinct labels holds numbers or names of songs
MIN_WEIGHTED_SONGS = 6  # songs that a class needs for a weight above 1 by `auto`
WEIGHTED_LOSSES = ("class_balanced", "logit_adjusted")  # losses that set their own weights
SHOWN = 5


def check_policies(data: DataConfig) -> list[str]:
    """Return problems with the keys that map labels to classes.

    Args:
        data: The data section of the config.

    Returns:
        Messages.
    """
    problems = []
    kinds = {type(value) for value in (data.class_mapping or {}).values() if value is not None}
    if data.class_mapping is not None and not kinds:
        problems.append("data.class_mapping: it names no class")
    if len(kinds) > 1:
        problems.append("data.class_mapping: it maps to names or to numbers, not to both")
    return problems


@dataclass(frozen=True)
class MappedLabels:
    """Classes of labels.

    Attributes:
        classes: Class of each label, or None where its rows are left out.
        reasons: Reason for each label whose rows are left out.
        notes: Messages for the user, with numbers of rows.
    """

    classes: dict[str, str | None]
    reasons: dict[str, str]
    notes: tuple[str, ...]


def map_labels(labels: Mapping[str, int], column: str, data: DataConfig) -> MappedLabels:
    """Map labels to classes with `data.class_mapping`.

    Args:
        labels: Number of rows of each label.
        column: Name of the target column, for messages.
        data: The data section of the config.

    Returns:
        The classes of the labels.

    Raises:
        InputError: The mapping lacks labels, and `data.unknown_classes` is `error`.
    """
    mapping = _names_of(data.class_mapping) if data.class_mapping is not None else None
    classes: dict[str, str | None] = {}
    reasons: dict[str, str] = {}
    unknown = []
    to_other = []
    for label in sorted(labels):
        if mapping is None:
            classes[label] = label
        elif label in mapping:
            classes[label] = mapping[label]
            if mapping[label] is None:
                reasons[label] = MAPPED_AWAY
        elif data.unknown_classes == "drop":
            classes[label], reasons[label] = None, UNKNOWN
        elif data.unknown_classes == "other" or label == OTHER:
            classes[label] = OTHER
            to_other += [label] if label != OTHER else []
        else:
            unknown.append(label)
    if unknown:
        assert mapping is not None
        listed = format_names(unknown, SHOWN, count_rest=True)
        raise InputError(f"target {column!r} has labels that data.class_mapping lacks: {listed}"
                         f"{did_you_mean(unknown[0], mapping)}; add them, or choose data.unknown_classes")  # fmt: skip
    changes = (
        (f"labels that data.class_mapping lacks become {OTHER!r}", to_other),
        ("labels that data.class_mapping lacks are left out", [name for name in reasons if reasons[name] == UNKNOWN]),
        ("labels that data.class_mapping leaves out", [name for name in reasons if reasons[name] == MAPPED_AWAY]),
    )
    notes = [
        f"{change}: {format_names([f'{name} ({labels[name]} rows)' for name in changed], SHOWN, count_rest=True)}"
        for change, changed in changes if changed
    ]  # fmt: skip
    if data.null_class is not None:
        notes.append(
            f"rows without a label count as {data.null_class!r} ({labels.get(data.null_class, 0)} rows in all)"
        )
    notes += _doubtful_classes(labels, classes, column, data)
    return MappedLabels(classes, reasons, tuple(notes))


def _doubtful_classes(
    labels: Mapping[str, int], classes: Mapping[str, str | None], column: str, data: DataConfig
) -> tuple[str, ...]:
    """Return warnings about classes that may be none, or one and the same, by their rows."""
    rows = Counter[str]()
    for label, name in classes.items():
        if name is not None:
            rows[name] += labels[label]
    return doubtful_names(rows, column, mapped_names(data))


def order_classes(present: Iterable[str], data: DataConfig) -> tuple[str, ...]:
    """Return class names in the order of the numbers that the mapping gives them, or of the alphabet.

    Args:
        present: Names of classes, with repetitions.
        data: The data section of the config.

    Returns:
        Each name once.

    Raises:
        InputError: There are more than `MAX_CLASSES` names.
    """
    names = sorted(set(present))
    if len(names) > MAX_CLASSES:
        listed = format_names(names, SHOWN, count_rest=True)
        raise InputError(f"{len(names)} different labels are too many classes ({listed}); for numbers: --phase 4")
    numbers = {_text(name): number for name, number in (data.class_mapping or {}).items() if isinstance(number, int)}
    return tuple(sorted(names, key=lambda name: (numbers.get(name, len(numbers)), name)))


def apply_rare_policy(
    songs: Mapping[str, int], column: str, data: DataConfig
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Apply `data.rare_classes` to classes that fewer than `data.min_songs_per_class` songs have.

    Args:
        songs: Number of songs of each class.
        column: Name of the target column, for messages.
        data: The data section of the config.

    Returns:
        New name of each class, `other` or None for rare ones; and messages for the user.

    Raises:
        InputError: There are rare classes, and the policy is `error`.
    """
    min_songs = data.min_songs_per_class
    rare = sorted(name for name, n in songs.items() if n < min_songs)
    if not rare:
        return {name: name for name in songs}, ()
    listed = format_names([f"{name} ({songs[name]})" for name in rare], SHOWN, count_rest=True)
    if data.rare_classes == "error":
        raise InputError(f"target {column!r} has classes of fewer than {min_songs} songs: {listed}; see"
                         " data.rare_classes (drop, other) and data.min_songs_per_class")  # fmt: skip
    joined = sum(songs[name] for name in rare) + (songs.get(OTHER, 0) if OTHER not in rare else 0)
    if data.rare_classes == "other" and joined >= min_songs:
        note = f"classes of fewer than {min_songs} songs are joined to {OTHER!r}: {listed}"
        return {name: OTHER if name in rare else name for name in songs}, (note,)
    note = f"classes of fewer than {min_songs} songs are left out: {listed}; see data.rare_classes"
    return {name: None if name in rare else name for name in songs}, (note,)


def find_small_classes(songs: Mapping[str, int]) -> tuple[str, ...]:
    """Return classes that are too small for a weight above 1.

    A tenfold weight on three songs makes a model learn these songs, not their class.

    Args:
        songs: Number of songs of each class.

    Returns:
        Names of classes of fewer than `MIN_WEIGHTED_SONGS` songs.
    """
    return tuple(sorted(name for name, n in songs.items() if 0 < n < MIN_WEIGHTED_SONGS))


def small_class_warnings(songs: Mapping[str, int], config: TrainingConfig, consequence: str) -> tuple[str, ...]:
    """Return a warning about classes whose weight `training.class_weights=auto` does not raise.

    Args:
        songs: Number of songs of each class.
        config: The training section of the config.
        consequence: Consequence for the weights, a clause of the message.

    Returns:
        At most one message.
    """
    tiny = [f"{name} ({songs[name]})" for name in find_small_classes(songs)]
    if config.class_weights != "auto" or config.loss in WEIGHTED_LOSSES or config.sampling != "none" or not tiny:
        return ()
    return (
        f"classes with too few songs for a higher weight: {format_names(tiny, SHOWN, count_rest=True)}; {consequence}"
        " (training.class_weights=balanced)",
    )


def count_names(names: Iterable[str]) -> dict[str, int]:
    """Count names.

    Args:
        names: Names with repetitions.

    Returns:
        Counts by name, the most frequent first.
    """
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _names_of(mapping: Mapping[str, str | int | None]) -> dict[str, str | None]:
    """Return the name of each mapped value; a mapping to numbers names each class by its first label."""
    first: dict[int, str] = {}
    name_of_value: dict[str, str | None] = {}
    for label, value in mapping.items():
        name = first.setdefault(value, _text(label)) if isinstance(value, int) else value
        name = label_name(name) if name is not None else None
        name_of_value[_text(label)] = name
    return name_of_value


def mapped_names(data: DataConfig) -> frozenset[str]:
    """Return the labels of `data.class_mapping` and the classes that it maps them to.

    Args:
        data: The data section of the config.

    Returns:
        Their names.
    """
    mapping = _names_of(data.class_mapping or {})
    return frozenset({*mapping, *(name for name in mapping.values() if name is not None)})


def _text(label: Any) -> str:
    return label_name(str(label))
