"""The model behind the interface: what is asked of it, whoever runs it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainbow_ray.inference.media_report import MODALITIES_READ
from rainbow_ray.inference.occlusion import WordEffect, word_effects
from rainbow_ray.inference.predictor import NO_TEXT, Predictor
from rainbow_ray.tasks.segment_task import WEAK

NO_SONG = "no name of a song"  # so that nothing says which segments are its neighbours


@dataclass(frozen=True)
class Answer:
    """What is said of a text: nothing but a reason where there is none.

    Attributes:
        prediction: What the scores say.
        scores: By class.
        reason: Why there is no score.
        modalities: What the score has read, of a model that reads audio or MIDI as well: requests bring text alone.
    """

    prediction: Any
    scores: dict[str, float]
    reason: str | None
    modalities: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the answer; `modalities` only where there is something to say."""
        plain = dict(vars(self))
        return plain if self.modalities is not None else {k: v for k, v in plain.items() if k != "modalities"}


class Service:
    """One model that is asked by many."""

    def __init__(self, model: str, device: str, threads: int | None = None) -> None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self.predictor = Predictor.load(model, device)
        # one after the other, also where who asked has given up: it asks the model some hundred times
        self.explaining = ThreadPoolExecutor(max_workers=1)

    @property
    def info(self) -> dict[str, Any]:
        """What the model is: phase, target, names of scores."""
        info = self.predictor.bundle.info
        kept = {name: info.get(name) for name in ("phase", "target", "trained_on_songs", "data_hash", "max_tokens")}
        return {
            **kept,
            "problem": self.predictor.bundle.task.name,
            "scores": self.predictor.score_names,
            "segments": self.predictor.reads_segments,
            "modalities": list(self.predictor.bundle.model.modalities),
            "read_from_requests": ["text"],
            "members": len(self.predictor.folds) or 1,
        }

    async def predict(self, texts: list[str]) -> list[Answer]:
        """An answer a text, in their order."""
        rows = await asyncio.gather(*(self._score(text) for text in texts))
        return [self._answer(row) for row in rows]

    async def explain(self, text: str, column: str) -> list[WordEffect]:
        """The words that moved a score."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.explaining, word_effects, self.predictor, text, column)

    async def predict_segments(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return an answer for each segment, in the order asked, and the stretches that they make.

        Args:
            rows: Segments with song, start, end and text. Each is a segment of its own, also where two are of one time.
        """
        return await asyncio.to_thread(self._segments, rows)

    async def _score(self, text: str) -> np.ndarray:
        """A text's scores, `(scores,)`; a replica asks for those of several requests at once."""
        row: np.ndarray = (await asyncio.to_thread(self.predictor.score_texts, [text]))[0]
        return row

    def _answer(self, row: np.ndarray) -> Answer:
        if np.isnan(row).any():
            return Answer(None, {}, NO_TEXT)
        names = [name.removeprefix("score_") for name in self.predictor.score_names]
        said = self.predictor.decode_predictions(row[None])[0]
        return Answer(
            list(said) if isinstance(said, tuple) else said, dict(zip(names, map(float, row), strict=True)), None,
            "text" if self.predictor.reads_media else None,
        )  # fmt: skip

    def _segments(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        import pandas as pd

        info = self.predictor.bundle.info
        start, end, _ = info["times"]
        first, *others = info["text_columns"]
        table = pd.DataFrame(
            {
                info["id_column"]: [row["song"] for row in rows],
                start: [row["start"] for row in rows],
                end: [row["end"] for row in rows],
                first: [row["text"] for row in rows],
                **dict.fromkeys(others, ""),
            }
        )
        found = self.predictor.segments_with_report(table, each_row=True)
        scored = dict(zip(found.rows.tolist(), _plain(found.segments), strict=True))
        answers = [{**(scored.get(i) or self._no_answer()), **asked} for i, asked in enumerate(rows)]
        return answers, _plain(found.intervals)

    def _no_answer(self) -> dict[str, Any]:
        """What is said of a segment that is of no song."""
        names = ["example_id", "prediction", *self.predictor.score_names]
        read = [MODALITIES_READ] if self.predictor.reads_media else []
        return {**dict.fromkeys([*names, *read]), WEAK: False, "reason": NO_SONG}


def _plain(table: Any) -> list[dict[str, Any]]:
    """Rows as JSON has them: what is no number is null."""
    import pandas as pd

    kept: list[dict[str, Any]] = table.astype(object).where(pd.notna(table), None).to_dict("records")
    return kept
