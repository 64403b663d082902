"""Names of baselines, as summaries, tables and reports show them."""

from __future__ import annotations

TEXT_LENGTH = "text length"
TF_IDF = "TF-IDF + linear"
BAG_OF_WORDS = "bag of words + boosting"
FROZEN_ENCODER = "frozen encoder + linear"
NO_CONTEXT = "no context"  # the model itself without its temporal layers, which is trained like the model

READS_WORDS = (TEXT_LENGTH, TF_IDF, BAG_OF_WORDS)  # baselines that need no encoder

# present names of baselines by the names that versions up to 0.1 wrote
FORMER_BASELINES = {"words + stumps": BAG_OF_WORDS, "frozen + linear": FROZEN_ENCODER, "none": NO_CONTEXT}


def media_baseline_name(key: str) -> str:
    """Return the name of the linear model of a modality's pooled features or descriptors.

    Args:
        key: Name of the modality, or key of its descriptors.

    Returns:
        Name of the baseline.
    """
    return f"{key.replace('_', ' ')} + linear"


def boosted_baseline_name(key: str) -> str:
    """Return the name of the boosting model of a modality's descriptors.

    Args:
        key: Key of the descriptors.

    Returns:
        Name of the baseline.
    """
    return f"{key.replace('_', ' ')} + boosting"
