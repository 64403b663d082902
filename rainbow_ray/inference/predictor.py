"""Predictions for new songs, with the preparation, batches and scoring of training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rainbow_ray.bundle.bundle import Bundle, load_bundle
from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.batching import scoring_batches
from rainbow_ray.data.examples import SLOT_SUFFIX, Examples
from rainbow_ray.data.text_cells import NOT_UTF8, id_column
from rainbow_ray.distributed.assigned_resources import check_own_gpu
from rainbow_ray.inference.ensemble import EnsembleScorer, prepare_collates, score_batch
from rainbow_ray.inference.input_tables import Table, Texts, column_names, get_column, read_texts, slice_rows
from rainbow_ray.inference.media_report import (
    IN_PYTHON,
    MODALITIES_READ,
    MediaReport,
    MediaWarning,
    max_unreadable,
    missing_columns,
)
from rainbow_ray.inference.media_values import prepare_with_media, read_media_values
from rainbow_ray.inference.row_scores import NO_TEXT, NOVELTY, REASON, RowScores, missing_reasons
from rainbow_ray.inference.segments import SegmentScores, score_segments
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.rows import lengths, modalities_present
from rainbow_ray.modalities.selection import described_modalities, reads_text, windowed
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.windows import Windows
from rainbow_ray.model.device import pick_device
from rainbow_ray.tasks.scores import empty_scores, is_scored
from rainbow_ray.utils.errors import InputError

MEDIA_BATCH_ROWS = 256  # rows whose media are in memory


class Predictor:
    """A trained model on PyTorch, of any phase.

    `predict` scores texts and tables of songs; `predict_segments` scores tables of segments (phase 5). An ensemble is
    one model with averaged scores; `member` returns one of its fits.

    Args:
        bundle: The model.
        device: `auto`, `cpu`, `cuda` or `mps`.
        media_root: Folder that relative paths of audio and MIDI start from.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", media_root: str | Path = ".") -> None:
        self.bundle, self.media_root = bundle, Path(media_root).expanduser()
        check_own_gpu(device)
        self.device = pick_device(device)[0]
        self.calibration, self.scorer = bundle.calibration, EnsembleScorer(bundle).to(self.device)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", media_root: str | Path = ".") -> Predictor:
        """Load a model from files.

        Args:
            path: A run's folder or a bundle.
            device: `auto`, `cpu`, `cuda` or `mps`.
            media_root: Folder that relative paths of audio and MIDI start from.

        Returns:
            The model.

        Raises:
            InputError: The folder is not a complete model.
        """
        return cls(load_bundle(Path(path)), device, media_root)

    @property
    def folds(self) -> list[int]:
        """Folds whose fits are members of this ensemble; empty for a single fit."""
        return [member.fold for member in self.bundle.members if member.fold is not None]

    def member(self, fold: int) -> Predictor:
        """Return the member that was trained without the songs of a fold, of which it gives held-out predictions.

        Args:
            fold: Number of the fold.

        Returns:
            A model of one fit.

        Raises:
            InputError: The ensemble has no member of this fold.
        """
        return Predictor(self.bundle.member(fold), str(self.device), self.media_root)

    @property
    def score_names(self) -> list[str]:
        """Columns of `predict` that hold scores."""
        return list(self.bundle.task.score_names)

    @property
    def reads_media(self) -> bool:
        """Whether the model reads audio or MIDI."""
        return bool(self._media)

    @property
    def reads_text(self) -> bool:
        """Whether the model reads text."""
        return reads_text(self.bundle.model.modalities)

    @property
    def reads_segments(self) -> bool:
        """Whether the model predicts segments of songs, so that tables are scored by `predict_segments`."""
        return self.bundle.task.is_sequence_task

    def predict(
        self, songs: str | Sequence[str | None] | pd.Series | pd.DataFrame | pa.Table, *, allow_missing: bool = False
    ) -> pd.DataFrame:
        """Predict songs or texts. The prediction of a row depends neither on the order of rows nor on other rows.

        Args:
            songs: Texts, or a table with the text columns of the training manifest and, where the model reads them, its
                columns of audio and MIDI: paths under `media_root`, contents of files as bytes, samples as arrays.
            allow_missing: Score rows with any number of unreadable audio or MIDI files from their other inputs.

        Returns:
            One row per song, with the index of `songs`: `prediction`; `score` (binary: the probability of True;
            regression: the value) or `score_<class>` of each class; `novelty`, how unlike the training songs a row is
            (above 1 for 5% of held-out training songs); for models that read audio or MIDI, `modalities` that were
            read (`text+audio`); and `reason`. All other columns of a row without any input are null.

        Raises:
            InputError: A column is missing or holds no text, or, without `allow_missing`, more files than
                `data.max_unreadable_fraction` of the run cannot be read.

        Warns:
            MediaWarning: Some files cannot be read.
        """
        if self.reads_segments and isinstance(songs, pd.DataFrame | pa.Table):
            raise InputError("this model predicts segments: pass tables to `predict_segments`")
        table, report = self.predict_with_report(songs, None if allow_missing else max_unreadable(self.bundle.info))
        self._check_media(report, songs, allow_missing=allow_missing)
        return table

    def predict_with_report(
        self, songs: str | Sequence[str | None] | pd.Series | pd.DataFrame | pa.Table, limit: float | None = None
    ) -> tuple[pd.DataFrame, MediaReport]:
        """Predict songs or texts, and report unreadable media instead of raising or warning.

        Args:
            songs: As in `predict`.
            limit: Fraction of files that may be unreadable: reading ends early once it must be exceeded. None: never.

        Returns:
            The table of `predict`, and the report on audio and MIDI files.

        Raises:
            InputError: A column is missing or holds no text, or more files than `limit` cannot be read.
        """
        if self.reads_segments:
            return self._predict_texts_as_segments(songs), MediaReport()
        texts = read_texts(songs, self.bundle.info["text_columns"], reads_text=self.reads_text)
        table = songs if isinstance(songs, pd.DataFrame | pa.Table) else None
        n_rows = len(texts.texts)
        size = MEDIA_BATCH_ROWS if self.bundle.model.is_fused else max(1, n_rows)
        results = [RowScores(empty_scores(self.bundle.task, 0), np.zeros(0, np.float32), [], [], MediaReport())]
        report = MediaReport()
        for start in range(0, n_rows, size):
            rows = None if table is None else slice_rows(table, start, start + size)
            results.append(self._score(texts.slice(start, start + size), rows))
            report += results[-1].report
            if limit is not None and start + size < n_rows and report.exceeds(limit, n_rows):
                self._check_media(report, songs, allow_missing=False, partial=True)
        return self._predictions_frame(results, texts.index), report

    def predict_with_features(self, table: Table) -> tuple[pd.DataFrame, dict[str, np.ndarray], MediaReport]:
        """Predict rows of a table of songs, and return the features that novelty compares.

        Args:
            table: As in `predict`; unreadable media count as missing. All of them are in memory at once.

        Returns:
            The table of `predict`; features by key, `(rows, width)` each, 0 for rows without a score, none if no row
            has one; and the report on audio and MIDI files.
        """
        texts = read_texts(table, self.bundle.info["text_columns"], reads_text=self.reads_text)
        result = self._score(texts, table, keep_features=True)
        return self._predictions_frame([result], texts.index), result.features, result.report

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the calibrated scores of texts.

        Args:
            texts: Texts to score.

        Returns:
            `(texts, scores)`, float32 (float64 for regression); NaN for empty texts.
        """
        return self.predict(texts)[self.score_names].to_numpy(dtype=self.bundle.task.score_dtype)

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """Convert calibrated scores to predictions.

        Args:
            scores: `(texts, scores)`, as `score_texts` returns them.

        Returns:
            A bool, class, tuple of classes or float per text.
        """
        plain = scores[:, 0] if self.score_names == ["score"] else scores
        return self.bundle.task.decode_predictions(self.calibration.thresholded(plain))

    def predict_segments(self, table: Table, *, allow_missing: bool = False) -> SegmentScores:
        """Predict the segments of a table with one row per segment and stem.

        Args:
            table: Segments with the columns of the training table. Times are seconds: numbers, times, durations, or
                text such as `1:23.5`.
            allow_missing: As in `predict`.

        Returns:
            One row per segment, and the intervals that neighboring segments with the same prediction form.

        Raises:
            InputError: The model does not predict segments, a column is missing, times are not seconds, or, without
                `allow_missing`, more files than `data.max_unreadable_fraction` of the run cannot be read.

        Warns:
            MediaWarning: Some files cannot be read.
        """
        if not self.reads_segments:
            raise InputError("this model does not predict segments: use `predict`")
        scores = self.segments_with_report(table, check_unit=True)
        self._check_media(scores.media, table, allow_missing=allow_missing)
        return scores

    def segments_with_report(self, table: Table, *, each_row: bool = False, check_unit: bool = False) -> SegmentScores:
        """Predict segments, and report unreadable media in `media` instead of raising or warning.

        Args:
            table: As in `predict_segments`.
            each_row: Whether each row is a segment; otherwise rows with the same song, place and times are its stems.
            check_unit: Whether to check that times are seconds; not needed for a chunk of a table that was checked.

        Returns:
            Predictions of segments and intervals.

        Raises:
            InputError: A column is missing or has another type, or times are not seconds.
        """
        return score_segments(
            self.bundle, self.scorer, self._input_spec(), self.device, table, each_row=each_row, check_unit=check_unit
        )

    @property
    def _root(self) -> Path:
        """Folder that relative paths of media start from, absolute."""
        return Path(self.media_root).expanduser().resolve()

    @property
    def _media(self) -> tuple[str, ...]:
        """Modalities of the model that are read as windows of files."""
        return windowed(self.bundle.model.modalities)

    def _missing_columns(self, songs: Any) -> tuple[list[str], list[str]]:
        """Return messages about columns of media that a table lacks, and the modalities that it does not have."""
        if not self._media or not isinstance(songs, pd.DataFrame | pa.Table):
            return [], list(self._media)  # texts alone are scored without media on purpose
        info, names = self.bundle.info, column_names(songs)
        columns = {name: info["media_columns"][name] for name in self._media}
        messages = missing_columns(columns, names, IN_PYTHON, info["text_columns"])
        absent = [name for name, (column, *_) in columns.items() if column not in names]
        return [f"the table has {message}" for message in messages], absent

    def _check_media(self, report: MediaReport, songs: Any, *, allow_missing: bool, partial: bool = False) -> None:
        """Raise `InputError` where too few files could be read; warn where some could not."""
        root, limit = self._root, max_unreadable(self.bundle.info)
        missing, absent = self._missing_columns(songs)
        problems = [*missing, *report.problems(limit, root, IN_PYTHON, partial=partial, absent=absent)]
        if problems and not allow_missing:
            raise InputError(problems)
        notes = [*missing, *report.notes(root, absent=absent)]
        if notes:
            warnings.warn("\n".join(notes), MediaWarning, stacklevel=3)

    def _predict_texts_as_segments(self, songs: Any) -> pd.DataFrame:
        """Score each text as a song of one segment without a time."""
        texts = read_texts(songs, [], reads_text=self.reads_text)
        info = self.bundle.info
        start, end, _ = info["times"]
        names = [f"text {i:09d}" for i in range(len(texts.texts))]
        columns: dict[str, Any] = {info["id_column"]: names, start: 0.0, end: 0.0}
        columns |= dict.fromkeys(info["text_columns"], None)
        columns[info["text_columns"][0]] = texts.texts
        segments = self.segments_with_report(pd.DataFrame(columns)).segments.set_index("song").loc[names]
        is_empty = (segments["text"] == "").to_numpy()
        further = [name for name in (NOVELTY, MODALITIES_READ) if name in segments]
        scored_columns = ["prediction", *self.score_names, *further]
        segments.loc[is_empty, scored_columns] = None
        reasons = np.where(texts.undecodable, NOT_UTF8, NO_TEXT).astype(object)
        segments[REASON] = np.where(is_empty, reasons, np.array(None))
        return segments[[*scored_columns, REASON]].set_index(texts.index)

    def _input_spec(self) -> InputSpec:
        """Return inputs of the model, with an in-memory cache of media."""
        info, model = self.bundle.info, self.bundle.model
        if not model.is_fused:
            return InputSpec(text=self.bundle.tokenizer, max_tokens=info["max_tokens"])
        text_encoder = self.bundle.tokenizer if self.reads_text else ""
        if not self._media:
            return InputSpec(model.modalities, text_encoder, info["max_tokens"])
        windows = Windows.from_json(info["windows"])
        return InputSpec(
            model.modalities, text_encoder, info["max_tokens"], seconds=windows.seconds,
            media_reader=MediaReader(self._media, self._root, windows, None),
            described=described_modalities(self._media, model.config),
        )  # fmt: skip

    def _score(self, texts: Texts, table: Table | None, *, keep_features: bool = False) -> RowScores:
        """Score some rows."""
        spec, model, task = self._input_spec(), self.bundle.model, self.bundle.task
        n_rows = len(texts.texts)
        rows = pa.table({"text": pa.array(texts.texts, pa.string()), "song": self._song_names(table, texts.index)})
        rows = self._with_values(rows, table, spec)
        values = read_media_values(table, self.bundle.info.get("media_columns", {}), spec.media, n_rows)
        rows = prepare_with_media(rows, values, spec)
        read = modalities_present(rows, model.modalities)
        report = MediaReport.of_rows(rows, spec.media, read)
        has_input = np.array([bool(names) for names in read], dtype=bool)
        for name in spec.media:
            slots = [[0] * len(windows) for windows in rows[name].to_pylist()]
            rows = rows.append_column(f"{name}{SLOT_SUFFIX}", pa.array(slots, pa.list_(pa.int16())))
        indices = np.flatnonzero(has_input)
        scores, reasons = empty_scores(task, n_rows), np.full(n_rows, None, dtype=object)
        novelty, features = np.full(n_rows, np.nan, dtype=np.float32), dict[str, np.ndarray]()
        reasons[~has_input] = missing_reasons(rows, spec, ~has_input)
        reasons[~has_input & texts.undecodable] = NOT_UTF8
        rows = rows.append_column("example_id", [[str(i) for i in range(n_rows)]]).take(pa.array(indices))
        examples = Examples(rows, np.zeros(len(indices), np.float32), np.ones(len(indices), np.float32))
        collates = prepare_collates(self.bundle, spec, self.device, rows)
        with torch.inference_mode():
            for batch_rows in scoring_batches(np.arange(len(indices)), lengths(rows, spec), self.device.type):
                batch = make_batch(examples, batch_rows, collates).to(self.device)
                batch_texts = examples.texts[batch_rows].tolist()
                scored, rows_of_batch = score_batch(self.bundle, self.scorer, batch, batch_texts), indices[batch_rows]
                scores[rows_of_batch], novelty[rows_of_batch] = scored.scores, scored.novelty
                for key, rows_read in scored.features.items() if keep_features else ():
                    width = rows_read.shape[1]
                    features.setdefault(key, np.zeros((n_rows, width), np.float32))[rows_of_batch] = rows_read
        return RowScores(scores, novelty, reasons.tolist(), [names or None for names in read], report, features)

    def _with_values(self, rows: pa.Table, table: Table | None, input_spec: InputSpec) -> pa.Table:
        """Return rows with the columns of modalities that are not files; null where a table lacks them."""
        for name in input_spec.values:
            column, _ = self.bundle.info["media_columns"][name]
            is_missing = table is None or column not in column_names(table)
            values = pa.nulls(len(rows)) if table is None or is_missing else get_column(table, column)
            values = pa.Array.from_pandas(values) if isinstance(values, pd.Series) else values
            rows = rows.append_column(f"raw_{name}", values)
        return rows

    def _song_names(self, table: Table | None, index: pd.Index) -> pa.Array:
        """Return names of songs in messages about media: their id, or else `#` and the index of the row."""
        labels = pa.array([f"#{label}" for label in index], pa.string())
        column = self.bundle.info.get("id_column", "id")
        if not self._media or table is None or column not in column_names(table):
            return labels
        try:
            ids = id_column(get_column(table, column), column)
        except InputError:  # ids such as lists cannot be shown, and no row is searched by them here
            return labels
        return pc.coalesce(ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids, labels)

    def _predictions_frame(self, results: Sequence[RowScores], index: pd.Index) -> pd.DataFrame:
        """Concatenate, calibrate and decode scores."""
        task, n_rows = self.bundle.task, len(index)
        scores = np.concatenate([result.scores for result in results])
        reasons = [reason for result in results for reason in result.reasons]
        predictions: np.ndarray = np.full(n_rows, None, dtype=object)
        scored = np.flatnonzero(is_scored(scores, task))
        if len(scored):
            scores[scored] = self.calibration.probabilities(scores[scored])
            decoded = task.decode_predictions(self.calibration.thresholded(scores[scored]))
            for row, prediction in zip(scored, decoded, strict=True):
                predictions[row] = prediction  # assigned singly, because numpy would unpack tuples of classes
        columns: dict[str, Any] = {"prediction": predictions}
        columns |= zip(task.score_names, scores.reshape(n_rows, len(task.score_names)).T, strict=True)
        if self.bundle.novelty is not None:
            columns[NOVELTY] = np.concatenate([result.novelty for result in results])
        if self.bundle.model.is_fused:
            read = [names for result in results for names in result.read]
            columns[MODALITIES_READ] = pd.Series(read, index, dtype=object)
        columns[REASON] = np.array([*reasons, None], dtype=object)[:-1]
        return pd.DataFrame(columns, index=index)
