"""Tiny random models of the families that read spectra, with their feature extractors, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

LAYERS = 3


def make_clap() -> tuple[Any, Any]:
    audio = {"hidden_size": 64, "patch_embeds_hidden_size": 8, "depths": [1] * 4, "num_attention_heads": [2] * 4,
             "projection_dim": 16, "num_mel_bins": 64}  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 50}  # fmt: skip
    config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=16)
    return config, transformers.ClapFeatureExtractor(truncation="rand_trunc")


def make_ast() -> tuple[Any, Any]:
    sizes = {"max_length": 256, "num_mel_bins": 32}
    config = transformers.ASTConfig(
        hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=48, **sizes
    )
    return config, transformers.ASTFeatureExtractor(**sizes)


def make_w2v_bert() -> tuple[Any, Any]:
    config = transformers.Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=48,
        feature_projection_input_dim=160, conv_depthwise_kernel_size=5,
    )  # fmt: skip
    return config, transformers.SeamlessM4TFeatureExtractor()


def make_whisper() -> tuple[Any, Any]:
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=LAYERS, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=60, max_target_positions=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return config, transformers.WhisperFeatureExtractor()


MAKERS = {"clap": make_clap, "ast": make_ast, "w2v-bert": make_w2v_bert, "whisper": make_whisper}


def save_model(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a random model and its feature extractor."""
    config, extractor = MAKERS[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
