"""Scoring new songs with a bundle: the same `prepare`, `collate` and scoring that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from rainbow_ray.data.examples import SLOTS, Examples
from rainbow_ray.data.stream import make_batch
from rainbow_ray.errors import InputError, nearest
from rainbow_ray.modalities import Reading, lengths, make_collates, prepare
from rainbow_ray.modalities.media import TROUBLE, MediaReader, Windows
from rainbow_ray.problems import are_known, no_scores, score_type
from rainbow_ray.problems.segmentation import Segmentation
from rainbow_ray.results.bundle import Bundle, load_bundle
from rainbow_ray.results.scoring import Scorer
from rainbow_ray.training.batches import scoring_batches
from rainbow_ray.training.device import pick_device, pick_precision
from rainbow_ray.training.heard import Heard

if TYPE_CHECKING:
    from rainbow_ray.results.segment_inference import SegmentScores

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
        self.bundle, self.media_root = bundle, Path(media_root)
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
        return list(self.bundle.problem.score_names)

    @property
    def reads_text(self) -> bool:
        return "text" in self.bundle.model.modalities

    def predict(self, songs: str | Sequence[str | None] | pd.Series | pd.DataFrame) -> pd.DataFrame:
        """A row a text, with `prediction`, `score` (binary: the probability of True; regression: the value) or
        `score_<class>` of each class, and `reason`.

        A DataFrame gives its text columns (those of the training manifest) and, where the model reads them, its columns
        of audio and MIDI; its index is kept. A row that has nothing of what the model reads has null for all but the
        reason. Scores depend on neither the order nor the company of rows. Raises `InputError` when a text column is
        missing.
        """
        frame = songs if isinstance(songs, pd.DataFrame) else None
        if self.reads_segments:
            return self._alone(songs)
        series = self._texts(songs)
        known = _plain_text(series)
        problem = self.bundle.problem
        scores = no_scores(problem, len(known))
        predictions, reasons = (np.full(len(known), None, dtype=object) for _ in range(2))
        for start in range(0, len(known), AT_ONCE if self.bundle.model.is_fused else max(1, len(known))):
            part = slice(start, start + AT_ONCE if self.bundle.model.is_fused else len(known))
            found = self._score(known.iloc[part].tolist(), None if frame is None else frame.iloc[part])
            scores[part], reasons[part] = found
        scored = np.flatnonzero(are_known(scores, problem))
        if len(scored):
            scores[scored] = self.calibration.probabilities(scores[scored])
            said = problem.decide(self.calibration.decided(scores[scored]))
            for at, decided in zip(scored, said, strict=True):
                predictions[at] = decided  # one by one: numpy would take a tuple of classes apart
        columns = scores.reshape(len(known), len(problem.score_names)).T
        named = dict(zip(problem.score_names, columns, strict=True))
        return pd.DataFrame({"prediction": predictions, **named, REASON: reasons}, index=series.index)

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """What `predict` scores, `(texts, scores)`, NaN where there is no text."""
        return self.predict(texts)[self.score_names].to_numpy(dtype=score_type(self.bundle.problem))

    def decide(self, scores: np.ndarray) -> list[Any]:
        """What calibrated scores `(texts, scores)` say."""
        plain = scores[:, 0] if self.score_names == ["score"] else scores
        return self.bundle.problem.decide(self.calibration.decided(plain))

    @property
    def reads_segments(self) -> bool:
        """Whether it predicts segments of songs: `predict_segments` is then what scores tables."""
        return isinstance(self.bundle.problem, Segmentation)

    def predict_segments(self, table: pd.DataFrame | pa.Table, *, check_unit: bool = True) -> SegmentScores:
        """A row a segment of a table with a row a segment and stem, and the stretches that they make.

        Args:
            table: A row a segment and stem, with the training table's columns. Times are seconds: numbers, times,
                durations, or text such as `1:23.5`.
            check_unit: Whether to check that times can be in seconds; False for a part of a table that was checked.

        Raises:
            InputError: The model does not read segments, a column is missing, or times cannot be read as seconds.
        """
        from rainbow_ray.results.segment_inference import read_table, score_segments, warn_of_times

        if not self.reads_segments:
            raise InputError("this model does not predict segments: use `predict`")
        rows = read_table(self.bundle, table)
        if check_unit:
            warn_of_times(self.bundle, rows)
        return score_segments(self.bundle, self.scorer, self._reading(), self.device, rows)

    def _texts(self, texts: str | Sequence[str | None] | pd.Series | pd.DataFrame) -> pd.Series:
        if isinstance(texts, pd.DataFrame):
            columns = self.bundle.info["text_columns"]
            missing = [name for name in columns if name not in texts.columns]
            if missing:
                known = list(map(str, texts.columns))
                raise InputError(f"the table has no column {name!r}{nearest(name, known)}" for name in missing)
            rows = zip(*(_plain_text(texts[name]) for name in columns), strict=True) if columns else [()] * len(texts)
            joined = ["\n\n".join(part.strip() for part in row if part.strip()) for row in rows]
            return pd.Series(joined, index=texts.index, dtype=object)
        if not self.reads_text:
            raise InputError("this model does not read text: give it a table with its columns of audio or MIDI")
        if isinstance(texts, str):
            texts = [texts]
        return texts if isinstance(texts, pd.Series) else pd.Series(list(texts), dtype=object)

    def _alone(self, songs: str | Sequence[str | None] | pd.Series | pd.DataFrame) -> pd.DataFrame:
        """Texts as songs of one segment each, of no known place; tables are for `predict_segments`."""
        if isinstance(songs, pd.DataFrame):
            raise InputError("this model predicts segments: give tables to `predict_segments`")
        series = self._texts(songs)
        start, end, _ = self.bundle.info["times"]
        names = [f"text {i:09d}" for i in range(len(series))]
        columns = {self.bundle.info["id_column"]: names, start: 0.0, end: 0.0}
        columns |= dict.fromkeys(self.bundle.info["text_columns"], None)
        columns[self.bundle.info["text_columns"][0]] = series.tolist()
        found = self.predict_segments(pd.DataFrame(columns), check_unit=False).segments.set_index("song").loc[names]
        empty = found["text"] == ""
        found.loc[empty, ["prediction", *self.score_names]] = None
        found[REASON] = [NO_TEXT if nothing else None for nothing in empty]
        return found[["prediction", *self.score_names, REASON]].set_index(series.index)

    def _reading(self) -> Reading:
        """What the model reads, with a store of its own in memory."""
        info, model = self.bundle.info, self.bundle.model
        if not model.is_fused:
            return Reading(text=self.bundle.tokenizer, max_tokens=info["max_tokens"])
        media = tuple(name for name in model.modalities if name != "text")
        windows = Windows(**info["windows"])
        return Reading(
            model.modalities, self.bundle.tokenizer if self.reads_text else "", info["max_tokens"],
            seconds=windows.seconds, media_reader=MediaReader(media, self.media_root, windows, None),
        )  # fmt: skip

    def _score(self, texts: list[str], frame: pd.DataFrame | None) -> tuple[np.ndarray, np.ndarray]:
        """Scores of some rows, and why those that have nothing to read lack them."""
        reading, problem = self._reading(), self.bundle.problem
        rows = pa.table({"text": pa.array(texts, pa.string())})
        for name in reading.media:
            rows = self._with_media(rows, name, frame)
        rows = prepare(rows, reading=reading)
        present = np.array([bool(text) for text in texts]) & self.reads_text
        for name in reading.media:
            windows = rows[name].to_pylist()
            rows = rows.append_column(
                f"{name}{SLOTS}", pa.array([[0] * len(row) for row in windows], pa.list_(pa.int16()))
            )
            present |= np.array([len(row) > 0 for row in windows], dtype=bool)
        chosen = np.flatnonzero(present)
        scores, reasons = no_scores(problem, len(texts)), np.full(len(texts), None, dtype=object)
        reasons[~present] = _why(rows, reading, ~present)
        names = [str(i) for i in range(len(texts))]
        rows = rows.append_column("example_id", [names]).append_column("song", [names]).take(pa.array(chosen))
        examples = Examples(rows, np.zeros(len(chosen), np.float32), np.ones(len(chosen), np.float32))
        heard = Heard(self.bundle.model, reading, self.device, pick_precision("off", self.device)[0])
        heard.prepare(
            [window for row in rows["audio"].to_pylist() for window in row] if "audio" in reading.media else []
        )
        collates = make_collates(reading, heard.find)
        with torch.inference_mode():
            for indices in scoring_batches(np.arange(len(chosen)), lengths(rows, reading)):
                batch = make_batch(examples, indices, collates).to(self.device)
                scores[chosen[indices]] = self.scorer(batch).cpu().numpy()
        return scores, reasons

    def _with_media(self, rows: pa.Table, modality: str, frame: pd.DataFrame | None) -> pa.Table:
        name, rate = self.bundle.info["media_columns"][modality]
        if frame is None or name not in frame.columns:
            return rows.append_column(f"raw_{modality}", pa.nulls(len(rows), pa.string()))
        values = [value if isinstance(value, str | bytes) else None for value in frame[name]]
        rows = rows.append_column(f"raw_{modality}", pa.array(values))
        if rate is not None and rate in frame.columns:
            rates = [None if pd.isna(value) else int(value) for value in frame[rate]]
            rows = rows.append_column(f"raw_{modality}_rate", pa.array(rates, pa.int64()))
        return rows


def _plain_text(column: pd.Series) -> pd.Series:
    """Texts of any kind of column, stripped, empty where there is none; half a character is none."""
    said = column.astype(object)
    told = [str(value).encode("utf-8", "replace").decode().strip() if not pd.isna(value) else "" for value in said]
    return pd.Series(told, index=column.index, dtype=object)


def _why(rows: pa.Table, reading: Reading, missing: np.ndarray) -> list[str]:
    """Why rows cannot be scored: what is wrong with their files, or that there is nothing."""
    if not reading.media:
        return [NO_TEXT] * int(missing.sum())
    chosen = rows.filter(pa.array(missing))
    troubles = [[trouble and f"{name}: {trouble.splitlines()[0]}" for trouble in chosen[f"{name}{TROUBLE}"].to_pylist()]
                for name in reading.media]  # fmt: skip
    return ["; ".join(filter(None, row)) or NOTHING for row in zip(*troubles, strict=True)]
