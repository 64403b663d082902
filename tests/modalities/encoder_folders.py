"""Folders of encoders for tests: changes of their files, and the message with which an encoder is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from rainbow_ray.modalities.audio import encoder as audio_encoder
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.utils.errors import InputError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n"


PAGE = "<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n"


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


WEIGHTS = "model.safetensors"


def remove_tokenizer(folder: Path, *remaining: str) -> None:
    for name in TOKENIZER:
        if name not in remaining:
            (folder / name).unlink(missing_ok=True)


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def save_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS, {"format": "pt"})


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    # copies, since the file is overwritten later
    return {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}


def shard(folder: Path) -> list[Path]:
    body = transformers.AutoModel.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    body.save_pretrained(folder, max_shard_size="40KB")
    return sorted(folder.glob("model-*.safetensors"))


def refusal(load: Callable[[], object], capfd) -> str:
    """Return the message of the only problem with which `load` fails, without any output."""
    capfd.readouterr()
    with pytest.raises(InputError) as error:
        load()
    assert capfd.readouterr() == ("", "")
    (problem,) = error.value.problems
    assert "Traceback" not in problem
    return problem


def load_text(folder: Path) -> tuple[str, ...]:
    text_encoder.load_config(str(folder))
    return text_encoder.verify_encoder(str(folder))


def load_audio(folder: Path) -> None:
    audio_encoder.load_config(str(folder))
    audio_encoder.verify_encoder(str(folder))
