"""The model behind the HTTP API."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rainbow_ray.inference.media_report import MODALITIES_READ
from rainbow_ray.inference.occlusion import WordEffect, word_effects
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.inference.row_scores import NO_TEXT, NOVELTY
from rainbow_ray.tasks.segment_task import WEAK

NO_SONG = "no name of a song"  # so that the neighbors of a segment are unknown
INFO_KEYS = ("phase", "target", "trained_on_songs", "data_hash", "max_tokens")


@dataclass(frozen=True)
class ServedPrediction:
    """Prediction for a text.

    Attributes:
        prediction: A bool, class, list of classes or float; None for an empty text.
        scores: Scores by class.
        reason: Why there is no prediction.
        novelty: How unlike the training songs the text is; None for an empty text, and where the model has no training
            songs to compare with.
        modalities: Modalities that the score was computed from, of models that read audio or MIDI as well; requests
            contain text alone.
    """

    prediction: Any
    scores: dict[str, float]
    reason: str | None
    novelty: float | None = None
    modalities: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the prediction.

        Returns:
            A dictionary, without `novelty` and `modalities` where they are None.
        """
        optional = ("novelty", "modalities")
        return {name: value for name, value in vars(self).items() if value is not None or name not in optional}


class Service:
    """A model that answers concurrent requests.

    Args:
        model: A run or a bundle.
        device: `auto`, `cpu`, `cuda` or `mps`.
        n_threads: Threads of torch, or None for its default.
    """

    def __init__(self, model: str, device: str, n_threads: int | None = None) -> None:
        if n_threads is not None:
            import torch

            torch.set_num_threads(n_threads)
        self.predictor = Predictor.load(model, device)
        # an explanation scores hundreds of texts, so one runs at a time, even after its client has disconnected
        self.explain_executor = ThreadPoolExecutor(max_workers=1)

    @property
    def info(self) -> dict[str, Any]:
        """Facts on the model: phase, task, target, names of scores and others."""
        info, task = self.predictor.bundle.info, self.predictor.bundle.task.name
        return {
            **{name: info.get(name) for name in INFO_KEYS},
            "task": task,
            "problem": task,  # former name of `task`
            "scores": self.predictor.score_names,
            "segments": self.predictor.reads_segments,
            "modalities": list(self.predictor.bundle.model.modalities),
            "read_from_requests": ["text"],
            "members": len(self.predictor.folds) or 1,
        }

    async def predict(self, texts: list[str]) -> list[ServedPrediction]:
        """Predict texts.

        Args:
            texts: Texts of a request.

        Returns:
            A prediction per text, in their order.
        """
        return list(await asyncio.gather(*(self._predict(text) for text in texts)))

    async def explain(self, text: str, column: str) -> list[WordEffect]:
        """Find the words with the largest effect on a score.

        Args:
            text: Text to explain.
            column: Name of the score.

        Returns:
            Words with their effects.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.explain_executor, word_effects, self.predictor, text, column)

    async def predict_segments(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Predict segments.

        Args:
            rows: Segments with song, start, end and text. Each is a segment, even where two have the same times.

        Returns:
            A prediction per segment, in their order, and intervals of neighboring segments with the same prediction.
        """
        return await asyncio.to_thread(self._predict_segments, rows)

    async def _predict(self, text: str) -> ServedPrediction:
        """Return the prediction for a text; replicas predict texts of several requests as one batch."""
        return (await asyncio.to_thread(self._predict_batch, [text]))[0]

    def _predict_batch(self, texts: list[str]) -> list[ServedPrediction]:
        """Return a prediction per text."""
        return [self._to_served(row) for row in _to_records(self.predictor.predict(texts))]

    def _to_served(self, row: dict[str, Any]) -> ServedPrediction:
        """Convert a row of the predictor's table."""
        if row["prediction"] is None:
            return ServedPrediction(None, {}, NO_TEXT)
        prediction, names = row["prediction"], self.predictor.score_names
        return ServedPrediction(
            list(prediction) if isinstance(prediction, tuple) else prediction,
            {name.removeprefix("score_"): float(row[name]) for name in names},
            None,
            row.get(NOVELTY),
            "text" if self.predictor.reads_media else None,
        )

    def _predict_segments(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        info = self.predictor.bundle.info
        start, end, _ = info["times"]
        first_text, *other_texts = info["text_columns"]
        table = pd.DataFrame(
            {
                info["id_column"]: [row["song"] for row in rows],
                start: [row["start"] for row in rows],
                end: [row["end"] for row in rows],
                first_text: [row["text"] for row in rows],
                **dict.fromkeys(other_texts, ""),
            }
        )
        scores = self.predictor.segments_with_report(table, each_row=True)
        scored = dict(zip(scores.rows.tolist(), _to_records(scores.segments), strict=True))
        predictions = [{**(scored.get(i) or self._no_prediction()), **row} for i, row in enumerate(rows)]
        return predictions, _to_records(scores.intervals)

    def _no_prediction(self) -> dict[str, Any]:
        """Return the fields of a segment without the name of a song."""
        names = ["example_id", "prediction", *self.predictor.score_names]
        names += [NOVELTY] if self.predictor.bundle.novelty is not None else []
        names += [MODALITIES_READ] if self.predictor.reads_media else []
        return {**dict.fromkeys(names), WEAK: False, "reason": NO_SONG}


def _to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON values; NaN becomes null."""
    rows = table.astype(object).where(pd.notna(table), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
