"""Fixtures of the tests of modalities: folders of a text and of an audio encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def text_folder(tiny_encoder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_encoder("bert"), tmp_path / "text-encoder"))


@pytest.fixture
def audio_folder(tmp_path) -> Path:
    import torch
    import transformers

    from tests.modalities.audio.test_audio import FAMILIES

    torch.manual_seed(0)
    folder = tmp_path / "audio-encoder"
    transformers.AutoModel.from_config(FAMILIES["wav2vec2"]()).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder
