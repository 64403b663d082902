"""Scoring new texts with a bundle: the same `prepare`, `collate` and scoring that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from rainbow_ray.data.examples import Examples
from rainbow_ray.data.stream import make_batch
from rainbow_ray.errors import InputError, nearest
from rainbow_ray.modalities import make_collates, text
from rainbow_ray.problems import no_scores
from rainbow_ray.results.bundle import Bundle, load_bundle
from rainbow_ray.results.calibrate import Calibration
from rainbow_ray.training.batches import scoring_batches
from rainbow_ray.training.device import pick_device


class Predictor:
    """A trained model that scores texts."""

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.device = pick_device(device)[0]
        self.calibration = Calibration.from_json(bundle.info.get("calibration", {}))
        bundle.model.to(self.device)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Predictor:
        """From a run's folder or a bundle. Raises `InputError` when it is not whole."""
        return cls(load_bundle(Path(path)), device)

    @property
    def score_names(self) -> list[str]:
        """Columns of `predict` that hold scores."""
        return list(self.bundle.problem.score_names)

    def predict(self, texts: str | Sequence[str | None] | pd.Series | pd.DataFrame) -> pd.DataFrame:
        """A row a text, with `prediction` and `score` (binary: the probability of True), or `score_<class>` of each.

        A DataFrame gives its text columns (those of the training manifest), and its index is kept. A missing or
        empty text has neither: both are null. Raises `InputError` when a text column is missing.
        """
        series = self._texts(texts)
        known = series.fillna("").astype(str).str.strip()
        scored = np.flatnonzero((known != "").to_numpy())
        problem = self.bundle.problem
        scores = no_scores(problem, len(known))
        predictions = np.full(len(known), None, dtype=object)
        if len(scored):
            scores[scored] = self.calibration.probabilities(self._score([known.iloc[i] for i in scored]))
            said = problem.decide(self.calibration.decided(scores[scored]))
            for at, decided in zip(scored, said, strict=True):
                predictions[at] = decided  # one by one: numpy would take a tuple of classes apart
        columns = scores.reshape(len(known), len(problem.score_names)).T
        named = dict(zip(problem.score_names, columns, strict=True))
        return pd.DataFrame({"prediction": predictions, **named}, index=series.index)

    def _texts(self, texts: str | Sequence[str | None] | pd.Series | pd.DataFrame) -> pd.Series:
        if isinstance(texts, pd.DataFrame):
            columns = self.bundle.info["text_columns"]
            missing = [name for name in columns if name not in texts.columns]
            if missing:
                known = list(map(str, texts.columns))
                raise InputError(f"the table has no column {name!r}{nearest(name, known)}" for name in missing)
            rows = texts[columns].fillna("").astype(str).itertuples(index=False)
            joined = ["\n\n".join(part.strip() for part in row if part.strip()) for row in rows]
            return pd.Series(joined, index=texts.index, dtype=object)
        if isinstance(texts, str):
            texts = [texts]
        return texts if isinstance(texts, pd.Series) else pd.Series(list(texts), dtype=object)

    def _score(self, texts: list[str]) -> np.ndarray:
        rows = pa.table({"text": texts, "example_id": [str(i) for i in range(len(texts))], "song": texts})
        rows = text.prepare(rows, encoder=self.bundle.tokenizer, limit=self.bundle.info["max_tokens"])
        examples = Examples(rows, np.zeros(len(texts), np.float32), np.ones(len(texts), np.float32))
        lengths = np.array([len(row) for row in examples.ragged(text.TOKENS)])
        collates = make_collates(self.bundle.tokenizer)
        scores = no_scores(self.bundle.problem, len(texts))
        with torch.inference_mode():
            for indices in scoring_batches(np.arange(len(texts)), lengths):
                logits = self.bundle.model(make_batch(examples, indices, collates).to(self.device))
                scores[indices] = self.bundle.problem.scores(logits).cpu().numpy()
        return scores
