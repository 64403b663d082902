"""How unlike the training songs an example is: its distance to the nearest of them. Needs numpy only.

Features of each encoder are standardized. The distance to the training songs is the mean Euclidean distance to the
nearest few of them, relative to that of held-out training songs, and averaged over the encoders that read something of
the example. (Cosine distances, which ignore the length of the vectors, did not tell texts of another kind or language
apart.)

Reference:
    Ramaswamy, Rastogi & Shim 2000, "Efficient algorithms for mining outliers from large data sets"; Sun, Ming, Zhu & Li
    2022, "Out-of-distribution detection with deep nearest neighbors", section 3, for features of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

N_NEIGHBORS = 3
FLAGGED_FRACTION = 0.05  # of held-out training songs
MAX_REFERENCES = 2000  # of a larger training set, a sample is kept
MIN_GROUPS = 10  # songs, without which a threshold means nothing
BATCH_ROWS = 256
SAME = 1e-2  # relative distance below which features are those of the same song, up to rounding
MIN_SPREAD = 1e-3  # of the median; features that hardly vary would count most
CENTER, SPREAD, REFERENCES, SCALE, THRESHOLD = "center", "spread", "references", "scale", "threshold"


@dataclass(frozen=True)
class Novelty:
    """Training songs that examples are compared with.

    Attributes:
        centers: Means of the features by key, float32, `(width,)` each.
        spreads: Standard deviations of the features by key, float32, `(width,)` each.
        references: Standardized features of training examples by key, float32, `(references, width)`.
        scales: Median distance of held-out training songs by key.
        threshold: Distance, relative to the scales, that 5% of held-out training songs exceed.
    """

    centers: dict[str, np.ndarray]
    spreads: dict[str, np.ndarray]
    references: dict[str, np.ndarray]
    scales: dict[str, float]
    threshold: float

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the features."""
        return tuple(self.centers)

    @property
    def is_sample(self) -> bool:
        """Whether as many training songs are kept as can be, so that others may be missing."""
        return any(len(rows) >= MAX_REFERENCES for rows in self.references.values())

    def score(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the novelty of examples.

        Args:
            features: Features by key, `(examples, width)` each; 0 where an example lacks the modality.

        Returns:
            Distances divided by the threshold, float32, `(examples,)`: above 1 for 5% of held-out training songs. NaN
            where nothing was read.
        """
        relative = [
            _distances(_standardize(features[key], self.centers[key], self.spreads[key]), self.references[key])
            / self.scales[key]
            for key in self.keys
        ]
        return (_mean_of_present(relative) / self.threshold).astype(np.float32)

    def is_training_song(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return which examples are among the training songs that are kept.

        Args:
            features: As in `score`.

        Returns:
            A mask, bool, `(examples,)`: those with the features of a training song in all modalities that they have.
        """
        nearest = []
        for key in self.keys:
            rows = _standardize(features[key], self.centers[key], self.spreads[key])
            nearest.append(_distances(rows, self.references[key], n_neighbors=1) / self.scales[key])
        return np.asarray(_mean_of_present(nearest) < SAME)

    def points(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features whose Euclidean distances are in the unit of `score`.

        Args:
            features: As in `score`.

        Returns:
            `(examples, width)`; 0, as for the mean of the training songs, where an example lacks a modality.
        """
        parts = [
            np.nan_to_num(_standardize(features[key], self.centers[key], self.spreads[key])) / self.scales[key]
            for key in self.keys
        ]
        return np.asarray(np.concatenate(parts, axis=1) / (self.threshold * np.sqrt(len(parts))))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the reference as arrays for a file.

        Returns:
            Arrays by name.
        """
        arrays = {f"{key}/{CENTER}": values for key, values in self.centers.items()}
        arrays |= {f"{key}/{SPREAD}": values for key, values in self.spreads.items()}
        arrays |= {f"{key}/{REFERENCES}": values for key, values in self.references.items()}
        arrays |= {f"{key}/{SCALE}": np.array([value], dtype=np.float64) for key, value in self.scales.items()}
        return arrays | {THRESHOLD: np.array([self.threshold], dtype=np.float64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Novelty:
        """Return the reference from the arrays of a file.

        Args:
            arrays: What `to_arrays` returned.

        Returns:
            The reference.

        Raises:
            ValueError: Arrays are missing, not finite, or do not fit each other.
        """
        keys = [name.removesuffix(f"/{CENTER}") for name in arrays if name.endswith(f"/{CENTER}")]
        try:
            centers = {key: arrays[f"{key}/{CENTER}"] for key in keys}
            spreads = {key: arrays[f"{key}/{SPREAD}"] for key in keys}
            references = {key: arrays[f"{key}/{REFERENCES}"] for key in keys}
            scales = {key: float(arrays[f"{key}/{SCALE}"][0]) for key in keys}
            threshold = float(arrays[THRESHOLD][0])
        except (KeyError, IndexError) as error:
            raise ValueError(f"the reference for novelty lacks {error}") from error
        fits = bool(keys) and all(
            references[key].shape[1:] == centers[key].shape == spreads[key].shape and (spreads[key] > 0).all()
            for key in keys
        )
        values = [*centers.values(), *references.values(), np.array([threshold, *scales.values()])]
        if not fits or not all(np.isfinite(array).all() for array in values) or min(threshold, *scales.values()) <= 0:
            raise ValueError("the reference for novelty is damaged")
        return cls(centers, spreads, references, scales, threshold)


def fit_novelty(features: Mapping[str, np.ndarray], groups: np.ndarray, *, seed: int) -> Novelty | None:
    """Fit the reference and the threshold on training songs, each compared with the other groups.

    Args:
        features: Features by key, `(examples, width)` each; 0 where an example lacks the modality.
        groups: Number of each example's song, `(examples,)`.
        seed: Seed of the sample of a large training set.

    Returns:
        The reference; None for fewer than `MIN_GROUPS` songs, or where no features tell songs apart.
    """
    n_examples = len(groups)
    kept = np.arange(n_examples)
    if n_examples > MAX_REFERENCES:
        kept = np.sort(np.random.default_rng(seed).choice(n_examples, MAX_REFERENCES, replace=False))
    if len(np.unique(groups[kept])) < MIN_GROUPS:
        return None
    centers, spreads, references, scales, relative = {}, {}, {}, {}, []
    for key, values in features.items():
        rows = values[kept].astype(np.float32)
        is_present = np.any(rows != 0, axis=1)
        if len(np.unique(groups[kept][is_present])) < MIN_GROUPS:
            continue
        center, spread = rows[is_present].mean(axis=0), rows[is_present].std(axis=0)
        typical = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
        spread = np.maximum(spread, MIN_SPREAD * typical).astype(np.float32)
        standardized = _standardize(rows, center, spread)
        held_out = _distances(standardized, standardized[is_present], groups[kept], groups[kept][is_present])
        scale = float(np.nanmedian(held_out))
        if not scale > 0:
            continue
        centers[key], spreads[key] = center, spread
        references[key], scales[key] = standardized[is_present], scale
        relative.append(held_out / scale)
    if not relative:
        return None
    distances = _mean_of_present(relative)
    threshold = float(np.quantile(distances[~np.isnan(distances)], 1 - FLAGGED_FRACTION))
    return Novelty(centers, spreads, references, scales, threshold) if threshold > 0 else None


def _standardize(features: np.ndarray, center: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Standardized features, float32; NaN where an example lacks the modality."""
    rows = (features.astype(np.float32) - center) / spread
    return np.where(np.any(features != 0, axis=1, keepdims=True), rows, np.float32(np.nan))


def _distances(
    rows: np.ndarray,
    references: np.ndarray,
    groups: np.ndarray | None = None,
    own: np.ndarray | None = None,
    n_neighbors: int = N_NEIGHBORS,
) -> np.ndarray:
    """Mean distance to the nearest references, of other groups where there are groups, `(examples,)`."""
    result, squares = np.full(len(rows), np.nan), np.sum(references**2, axis=1)
    for start in range(0, len(rows), BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        products = rows[part] @ references.T
        distances = np.sqrt(np.maximum(np.sum(rows[part] ** 2, axis=1, keepdims=True) + squares - 2 * products, 0))
        if groups is not None and own is not None:
            distances[groups[part][:, None] == own[None, :]] = np.inf
        nearest: np.ndarray = np.sort(distances, axis=1)[:, : min(n_neighbors, distances.shape[1])]
        result[part] = nearest.mean(axis=1)
    return np.asarray(np.where(np.isfinite(result), result, np.nan))


def _mean_of_present(distances: list[np.ndarray]) -> np.ndarray:
    """Mean over the encoders that read something of an example; NaN where none did."""
    stacked = np.stack(distances)
    is_present = ~np.isnan(stacked)
    sums, counts = np.where(is_present, stacked, 0).sum(axis=0), is_present.sum(axis=0)
    return np.asarray(np.divide(sums, counts, out=np.full(stacked.shape[1], np.nan), where=counts > 0))
