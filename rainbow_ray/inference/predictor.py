"""Scoring new songs with a bundle: the same `prepare`, `collate` and scoring that training uses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rainbow_ray.bundle.bundle import Bundle, load_bundle
from rainbow_ray.data.batching import scoring_batches
from rainbow_ray.data.examples import SLOTS, Examples
from rainbow_ray.data.normalize import NOT_UTF8, id_column
from rainbow_ray.data.reader import make_batch
from rainbow_ray.inference.ensemble import Scorer
from rainbow_ray.inference.input_tables import Table, Texts, column_of, read_texts, slice_of
from rainbow_ray.inference.input_tables import names_of as column_names_of
from rainbow_ray.inference.media_report import (
    IN_PYTHON,
    MODALITIES_READ,
    MediaReport,
    MediaWarning,
    max_unreadable,
    missing_columns,
)
from rainbow_ray.inference.media_values import prepare_with_media, read_media_values
from rainbow_ray.modalities.media import MediaReader, Windows
from rainbow_ray.modalities.media_source import TROUBLE
from rainbow_ray.modalities.spec import InputSpec, lengths, make_collates, modalities_present
from rainbow_ray.model.audio_features import AudioFeatureCache
from rainbow_ray.model.device import pick_device, pick_precision
from rainbow_ray.tasks.base import empty_scores, is_scored, score_dtype
from rainbow_ray.tasks.segmentation import Segmentation
from rainbow_ray.utils.errors import InputError

if TYPE_CHECKING:
    from rainbow_ray.inference.segments import SegmentScores

AT_ONCE = 256  # rows whose media are in memory
NO_TEXT = "no text"
NOTHING = "nothing to read"
REASON = "reason"  # column: why a row has no score


class Predictor:
    """A trained model of any phase.

    Phases 1 (yes or no), 2 (classes, or several labels) and 4 (a number) are asked by `predict`; so is phase 3, whose
    tables name audio and MIDI as well, whichever there are. Phase 5 is asked by `predict_segments`. An ensemble answers
    as one, and `member` gives one of its fits.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", media_root: str | Path = ".") -> None:
        self.bundle, self.media_root = bundle, Path(media_root).expanduser()
        self.device = pick_device(device)[0]
        self.calibration = bundle.calibration
        self.scorer = Scorer(bundle).to(self.device)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", media_root: str | Path = ".") -> Predictor:
        """From a run's folder or a bundle. Raises `InputError` when it is not whole.

        Paths of audio and MIDI start from `media_root`.
        """
        return cls(load_bundle(Path(path)), device, media_root)

    @property
    def folds(self) -> list[int]:
        """Folds whose own fits are the members of this ensemble; none where it is one fit."""
        return [one.fold for one in self.bundle.members if one.fold is not None]

    def member(self, fold: int) -> Predictor:
        """The fit that never saw a fold's songs: what it says of them are the run's held-out scores.

        Raises `InputError` where there is none.
        """
        return Predictor(self.bundle.member(fold), str(self.device), self.media_root)

    @property
    def score_names(self) -> list[str]:
        """Columns of `predict` that hold scores."""
        return list(self.bundle.task.score_names)

    @property
    def reads_media(self) -> bool:
        """Whether it reads audio or MIDI."""
        return bool(self._media)

    @property
    def reads_text(self) -> bool:
        return "text" in self.bundle.model.modalities

    def predict(
        self, songs: str | Sequence[str | None] | pd.Series | pd.DataFrame | pa.Table, *, allow_missing: bool = False
    ) -> pd.DataFrame:
        """Return a row a text, with `prediction`, `score` (binary: the probability of True; regression: the value) or
        `score_<class>` of each class, and `reason`.

        Scores depend on neither the order nor the company of rows.

        Args:
            songs: Texts, or a table with the text columns of the training manifest and, where the model reads them, its
                columns of audio and MIDI: names of files under `media_root`, files as bytes, samples as arrays.
            allow_missing: Score rows whose audio or MIDI cannot be read from what is left, however many they are.

        Returns:
            A DataFrame with the index of `songs`. Of models that read audio or MIDI it also has `modalities`, which
            names what each score has read (`text+audio`). A row without anything to read is null but for its reason.

        Raises:
            InputError: A column is missing or holds no text, or, without `allow_missing`, more files than
                `data.max_unreadable_fraction` of the run cannot be used.

        Warns:
            MediaWarning: Some files cannot be used, by reason.
        """
        if self.reads_segments and isinstance(songs, pd.DataFrame | pa.Table):
            raise InputError("this model predicts segments: give tables to `predict_segments`")
        limit = None if allow_missing else max_unreadable(self.bundle.info)
        table, report = self.predict_with_report(songs, limit)
        self._check_media(report, songs, allow_missing=allow_missing)
        return table

    def predict_with_report(
        self, songs: str | Sequence[str | None] | pd.Series | pd.DataFrame | pa.Table, limit: float | None = None
    ) -> tuple[pd.DataFrame, MediaReport]:
        """Return what `predict` returns, and what could be read of audio and MIDI, without judging it.

        Args:
            songs: As in `predict`.
            limit: Share of files that may be unreadable: reading ends early once it must be exceeded. None: never.
        """
        if self.reads_segments:
            return self._predict_alone(songs), MediaReport()
        texts = read_texts(songs, self.bundle.info["text_columns"], reads_text=self.reads_text)
        table = songs if isinstance(songs, pd.DataFrame | pa.Table) else None
        task, rows = self.bundle.task, len(texts.texts)
        size = AT_ONCE if self.bundle.model.is_fused else max(1, rows)
        parts = [_Scored(empty_scores(task, 0), [], [], MediaReport())]
        report = MediaReport()
        for start in range(0, rows, size):
            part = texts.slice(start, start + size)
            parts.append(self._score(part, None if table is None else slice_of(table, start, start + size)))
            report += parts[-1].report
            if limit is not None and start + size < rows and report.exceeds(limit, rows):
                self._check_media(report, songs, allow_missing=False, partial=True)
        scores = np.concatenate([part.scores for part in parts])
        reasons = [reason for part in parts for reason in part.reasons]
        predictions: np.ndarray = np.full(rows, None, dtype=object)
        scored = np.flatnonzero(is_scored(scores, task))
        if len(scored):
            scores[scored] = self.calibration.probabilities(scores[scored])
            said = task.decode_predictions(self.calibration.thresholded(scores[scored]))
            for at, decided in zip(scored, said, strict=True):
                predictions[at] = decided  # one by one: numpy would take a tuple of classes apart
        columns = scores.reshape(rows, len(task.score_names)).T
        named: dict[str, Any] = dict(zip(task.score_names, columns, strict=True))
        if self.bundle.model.is_fused:
            named[MODALITIES_READ] = pd.Series([one for part in parts for one in part.read], texts.index, dtype=object)
        return (
            pd.DataFrame({"prediction": predictions, **named, REASON: np.array([*reasons, None], dtype=object)[:-1]},
                         index=texts.index),
            report,
        )  # fmt: skip

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """What `predict` scores, `(texts, scores)`, NaN where there is no text."""
        return self.predict(texts)[self.score_names].to_numpy(dtype=score_dtype(self.bundle.task))

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """What calibrated scores `(texts, scores)` say."""
        plain = scores[:, 0] if self.score_names == ["score"] else scores
        return self.bundle.task.decode_predictions(self.calibration.thresholded(plain))

    @property
    def reads_segments(self) -> bool:
        """Whether it predicts segments of songs: `predict_segments` is then what scores tables."""
        return isinstance(self.bundle.task, Segmentation)

    def predict_segments(self, table: pd.DataFrame | pa.Table, *, allow_missing: bool = False) -> SegmentScores:
        """Return a row a segment of a table with a row a segment and stem, and the stretches that they make.

        Args:
            table: Segments with the columns of the training table. Times are seconds: numbers, times, durations, or
                text such as `1:23.5`.
            allow_missing: As in `predict`.

        Raises:
            InputError: The model does not read segments, a column is missing, times cannot be read as seconds, or,
                without `allow_missing`, more files than `data.max_unreadable_fraction` of the run cannot be used.

        Warns:
            MediaWarning: Some files cannot be used, by reason.
        """
        if not self.reads_segments:
            raise InputError("this model does not predict segments: use `predict`")
        scores = self.segments_with_report(table, check_unit=True)
        self._check_media(scores.media, table, allow_missing=allow_missing)
        return scores

    def segments_with_report(
        self, table: pd.DataFrame | pa.Table, *, each_row: bool = False, check_unit: bool = False
    ) -> SegmentScores:
        """Return what `predict_segments` returns; `media` says what could be read, without judging it.

        Args:
            table: As in `predict_segments`.
            each_row: Whether each row is a segment of its own; otherwise rows of one song, place and time are its
                stems.
            check_unit: Whether to check that times can be in seconds; a part of a table that was checked is not.
        """
        from rainbow_ray.inference.segments import score_segments

        return score_segments(
            self.bundle, self.scorer, self._reading(), self.device, table, each_row=each_row, check_unit=check_unit
        )

    @property
    def _root(self) -> Path:
        """Where relative names of files start."""
        return Path(self.media_root).expanduser().resolve()

    @property
    def _media(self) -> tuple[str, ...]:
        """What the model reads beside text."""
        return tuple(name for name in self.bundle.model.modalities if name != "text")

    def _missing_columns(self, songs: Any) -> tuple[list[str], list[str]]:
        """Messages about columns of audio and MIDI that a table lacks, and the modalities that are not offered."""
        if not self._media or not isinstance(songs, pd.DataFrame | pa.Table):
            return [], list(self._media)  # whoever gives texts alone wants them scored alone
        info, names = self.bundle.info, column_names_of(songs)
        columns = {name: info["media_columns"][name] for name in self._media}
        messages = missing_columns(columns, names, IN_PYTHON, info["text_columns"])
        absent = [name for name, (column, *_) in columns.items() if column not in names]
        return [f"the table has {message}" for message in messages], absent

    def _check_media(self, report: MediaReport, songs: Any, *, allow_missing: bool, partial: bool = False) -> None:
        """Raise `InputError` where too little could be read; warn where less than all."""
        root, limit = self._root, max_unreadable(self.bundle.info)
        missing, absent = self._missing_columns(songs)
        problems = [*missing, *report.problems(limit, root, IN_PYTHON, partial=partial, absent=absent)]
        if problems and not allow_missing:
            raise InputError(problems)
        notes = [*missing, *report.notes(root, absent=absent)]
        if notes:
            warnings.warn("\n".join(notes), MediaWarning, stacklevel=3)

    def _predict_alone(self, songs: Any) -> pd.DataFrame:
        """Texts as songs of one segment each, of no known place; tables are for `predict_segments`."""
        texts = read_texts(songs, [], reads_text=self.reads_text)
        start, end, _ = self.bundle.info["times"]
        names = [f"text {i:09d}" for i in range(len(texts.texts))]
        columns: dict[str, Any] = {self.bundle.info["id_column"]: names, start: 0.0, end: 0.0}
        columns |= dict.fromkeys(self.bundle.info["text_columns"], None)
        columns[self.bundle.info["text_columns"][0]] = texts.texts
        found = self.segments_with_report(pd.DataFrame(columns)).segments.set_index("song").loc[names]
        empty = (found["text"] == "").to_numpy()
        kept = ["prediction", *self.score_names, *([MODALITIES_READ] if MODALITIES_READ in found else [])]
        found.loc[empty, kept] = None
        found[REASON] = np.where(empty, np.where(texts.undecodable, NOT_UTF8, NO_TEXT).astype(object), np.array(None))
        return found[[*kept, REASON]].set_index(texts.index)

    def _reading(self) -> InputSpec:
        """What the model reads, with a store of its own in memory."""
        info, model = self.bundle.info, self.bundle.model
        if not model.is_fused:
            return InputSpec(text=self.bundle.tokenizer, max_tokens=info["max_tokens"])
        media = tuple(name for name in model.modalities if name != "text")
        windows = Windows(**info["windows"])
        return InputSpec(
            model.modalities, self.bundle.tokenizer if self.reads_text else "", info["max_tokens"],
            seconds=windows.seconds, media_reader=MediaReader(media, self._root, windows, None),
        )  # fmt: skip

    def _score(self, texts: Texts, table: Table | None) -> _Scored:
        """Scores of some rows, and why those that have nothing to read lack them."""
        reading, model, task = self._reading(), self.bundle.model, self.bundle.task
        size = len(texts.texts)
        rows = pa.table({"text": pa.array(texts.texts, pa.string()), "song": self._names(table, texts.index)})
        values = read_media_values(table, self.bundle.info.get("media_columns", {}), reading.media, size)
        rows = prepare_with_media(rows, values, reading)
        read = modalities_present(rows, model.modalities)
        report = MediaReport.of_rows(rows, reading.media, read)
        present = np.array([bool(names) for names in read], dtype=bool)
        for name in reading.media:
            windows = rows[name].to_pylist()
            rows = rows.append_column(
                f"{name}{SLOTS}", pa.array([[0] * len(row) for row in windows], pa.list_(pa.int16()))
            )
        chosen = np.flatnonzero(present)
        scores, reasons = empty_scores(task, size), np.full(size, None, dtype=object)
        reasons[~present] = _why(rows, reading, ~present)
        reasons[~present & texts.undecodable] = NOT_UTF8
        rows = rows.append_column("example_id", [[str(i) for i in range(size)]]).take(pa.array(chosen))
        examples = Examples(rows, np.zeros(len(chosen), np.float32), np.ones(len(chosen), np.float32))
        heard = AudioFeatureCache(model, reading, self.device, pick_precision("off", self.device)[0])
        heard.prepare(
            [window for row in rows["audio"].to_pylist() for window in row] if "audio" in reading.media else []
        )
        collates = make_collates(reading, heard.find)
        with torch.inference_mode():
            for indices in scoring_batches(np.arange(len(chosen)), lengths(rows, reading)):
                batch = make_batch(examples, indices, collates).to(self.device)
                scores[chosen[indices]] = self.scorer(batch).cpu().numpy()
        return _Scored(scores, reasons.tolist(), [names or None for names in read], report)

    def _names(self, table: Table | None, index: pd.Index) -> pa.Array:
        """What messages about media call the song of each row: its id, or else `#` and the label of the row."""
        labels = pa.array([f"#{label}" for label in index], pa.string())
        column = self.bundle.info.get("id_column", "id")
        if not self._media or table is None or column not in column_names_of(table):
            return labels
        try:
            ids = id_column(column_of(table, column), column)
        except InputError:  # a list, say: nothing is looked up by it here
            return labels
        return pc.coalesce(ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids, labels)


@dataclass(frozen=True)
class _Scored:
    """Some rows: uncalibrated scores, why there is none, which modalities were read, and what could not be."""

    scores: np.ndarray
    reasons: list[str | None]
    read: list[str | None]
    report: MediaReport


def _why(rows: pa.Table, reading: InputSpec, missing: np.ndarray) -> list[str]:
    """Why rows cannot be scored: what is wrong with their files, or that there is nothing."""
    if not reading.media:
        return [NO_TEXT] * int(missing.sum())
    chosen = rows.filter(pa.array(missing))
    troubles = [[trouble and f"{name}: {trouble.splitlines()[0]}" for trouble in chosen[f"{name}{TROUBLE}"].to_pylist()]
                for name in reading.media]  # fmt: skip
    return ["; ".join(filter(None, row)) or NOTHING for row in zip(*troubles, strict=True)]
