"""Stacked models of other encoder families give the scores of their run, and novelty does not flag training stems."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rainbow_ray
from tests.helpers import finish_run, plan_of
from tests.song_tables import labelled_songs

SHORT = {"training__epochs": 2, "training__min_steps": 0, "data__folds": 2, "training__combine": "stack"}


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory, tiny_tokenizer_folder):
    """An encoder that ends in a norm, of a family that cannot be run layer by layer."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder = tmp_path_factory.mktemp("qwen3")
    shutil.copytree(tiny_tokenizer_folder, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3", hidden_size=32, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        intermediate_size=64, vocab_size=256, max_position_embeddings=96, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    AutoModel.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def test_an_encoder_that_ends_in_a_norm_gives_the_scores_of_the_run(qwen3, tmp_path):
    pq.write_table(labelled_songs(), tmp_path / "songs.parquet")
    run = finish_run(plan_of(tmp_path / "songs.parquet", qwen3, **SHORT), tmp_path / "run")
    rows = pd.read_parquet(run / "predictions.parquet")
    expected = rows[rows["fold"].isna()].set_index("song")["score"]
    model = rainbow_ray.load(run)
    assert "frozen encoder + linear" in model.bundle.stacks[0].weights.names
    songs = pd.read_parquet(tmp_path / "songs.parquet")
    scores = model.predict(songs).set_index(songs["id"])["score"]
    np.testing.assert_allclose(scores.loc[expected.index], expected, atol=1e-5)


@pytest.mark.slow
def test_novelty_of_training_stems_is_low_and_of_rows_without_text_is_that_of_their_media(tiny_encoder, tmp_path):
    from tests.modalities.audio.test_audio import saved, tone

    songs = labelled_songs().to_pandas()
    for pitch in range(3):
        for i in range(len(songs)):
            (tmp_path / f"{i}-{pitch}.wav").write_bytes(saved(tone(1.0, pitch=200 + 700 * pitch + 3 * i)))
    rows = pd.concat([songs.assign(audio_file=[f"{i}-{k}.wav" for i in range(len(songs))]) for k in range(3)])
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), tmp_path / "stems.parquet")
    keys = {**SHORT, "phase": 3, "modalities": ["text", "audio"], "data__window_seconds": 0.5}
    keys["model__audio_encoder__model_name"] = "embedded"
    run = finish_run(plan_of(tmp_path / "stems.parquet", tiny_encoder("bert"), **keys), tmp_path / "run")
    model = rainbow_ray.load(run, media_root=tmp_path)
    novelty = model.predict(rows, allow_missing=True)["novelty"]
    assert (novelty > 1).mean() < 0.1
    without_text = model.predict(rows.assign(concept=None).head(30), allow_missing=True)["novelty"]
    assert without_text.median() < 1.5
    assert without_text.notna().all()
