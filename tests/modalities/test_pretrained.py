"""Encoders whose weights or configs are missing, damaged or of another model are refused with a message."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from rainbow_ray.modalities.audio import encoder as audio_encoder
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.utils.errors import InputError
from tests.helpers import plan_of
from tests.modalities.audio.test_audio import FAMILIES
from tests.modalities.encoder_folders import (
    PAGE,
    POINTER,
    WEIGHTS,
    edit,
    load_audio,
    load_text,
    refusal,
    remove_tokenizer,
    save_weights,
    shard,
    tensors,
)
from tests.song_tables import song_rows


class Malicious:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "it-ran"),)


def without_a_shard(folder: Path) -> None:
    shard(folder)[1].unlink()


def pointer_shard(folder: Path) -> None:
    shard(folder)[1].write_text(POINTER)


def damaged_index(folder: Path) -> None:
    shard(folder)
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": [')


def cut_off(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def pickle_as_safetensors(folder: Path) -> None:
    torch.save(tensors(folder), folder / WEIGHTS)


def pickled_objects(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"a": Malicious(folder)}, folder / "pytorch_model.bin")


def cut_pickle(folder: Path) -> None:
    torch.save(tensors(folder), folder / "pytorch_model.bin")
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    (folder / WEIGHTS).unlink()


def other_format(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "tf_model.h5")


def without_a_layer(folder: Path) -> None:
    save_weights(folder, {name: tensor for name, tensor in tensors(folder).items() if "layers.2." not in name
                          and "layer.2." not in name})  # fmt: skip


def not_finite(folder: Path) -> None:
    state = tensors(folder)
    name = next(name for name, tensor in state.items() if tensor.ndim == 2)
    state[name][0, 0] = torch.nan
    save_weights(folder, state)


def other_names(folder: Path) -> None:
    save_weights(folder, {f"0.auto_model.{name}": tensor for name, tensor in tensors(folder).items()})


def fewer_layers(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=2)


def custom_code(folder: Path) -> None:
    edit(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(folder / 'it-ran')!r})\n")


def quantised(folder: Path) -> None:
    save_weights(folder, {name: (tensor * 100).to(torch.int8) if tensor.ndim == 2 else tensor
                          for name, tensor in tensors(folder).items()})  # fmt: skip


def quantised_pickle(folder: Path) -> None:
    torch.save({name: (tensor.abs() * 100).to(torch.uint8) if tensor.ndim == 2 else tensor
                for name, tensor in tensors(folder).items()}, folder / "pytorch_model.bin")  # fmt: skip
    (folder / WEIGHTS).unlink()


# name: the change of the folder of a text or audio encoder, and a part of the message
WEIGHT_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer": (lambda folder: (folder / WEIGHTS).write_text(POINTER), "is a Git LFS pointer"),
    "web page": (lambda folder: (folder / WEIGHTS).write_text(PAGE), "is a web page"),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is empty"),
    "cut off": (cut_off, "model.safetensors is cut off or damaged"),
    "random bytes": (lambda folder: (folder / WEIGHTS).write_bytes(bytes(range(256)) * 9), "cut off or damaged"),
    "pickle as safetensors": (pickle_as_safetensors, "a pickle under another name"),
    "pickled objects": (pickled_objects, "objects other than tensors"),
    "cut pickle": (cut_pickle, "pytorch_model.bin is cut off"),
    "none": (lambda folder: (folder / WEIGHTS).unlink(), "the folder has no weights"),
    "other format": (other_format, "these files are not read: tf_model.h5"),
    "shard missing": (without_a_shard, "weight files are missing (model-00002-of-"),
    "pointer shard": (pointer_shard, "model-00002-of-"),
    "index damaged": (damaged_index, "model.safetensors.index.json is damaged"),
    "layer missing": (without_a_layer, "weights of a"),
    "not finite": (not_finite, "not finite numbers"),
    "quantised": (quantised, "weights of type I8"),
    "quantised pickle": (quantised_pickle, "weights of type uint8"),
    "other names": (other_names, "its file has"),
    "fewer layers": (fewer_layers, "config.json has 2"),
    "own code": (custom_code, "custom code, which is never run"),
    "config pointer": (lambda folder: (folder / "config.json").write_text(POINTER), "config.json is a Git LFS pointer"),
    "config cut": (lambda folder: (folder / "config.json").write_text('{"model_type": "be'), "config.json cannot be"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "the folder has no config.json"),
}


@pytest.mark.parametrize("damage", WEIGHT_DAMAGES)
def test_a_text_encoder_with_damaged_weights_is_refused(damage, text_folder, capfd):
    change, words = WEIGHT_DAMAGES[damage]
    change(text_folder)
    problem = refusal(lambda: load_text(text_folder), capfd)
    assert problem.startswith(f"model.text_encoder.model_name: '{text_folder}'")
    assert words in problem
    assert not (text_folder / "it-ran").exists()


@pytest.mark.parametrize("damage", WEIGHT_DAMAGES)
def test_an_audio_encoder_with_damaged_weights_is_refused(damage, audio_folder, capfd):
    change, words = WEIGHT_DAMAGES[damage]
    change(audio_folder)
    problem = refusal(lambda: load_audio(audio_folder), capfd)
    assert problem.startswith(f"model.audio_encoder.model_name: '{audio_folder}'")
    assert words in problem
    assert not (audio_folder / "it-ran").exists()


def test_weights_of_another_architecture_are_refused(text_folder, audio_folder, tiny_encoder, capfd):
    shutil.copy(tiny_encoder("distilbert") / WEIGHTS, text_folder / WEIGHTS)
    assert "of a 'bert' model are missing" in refusal(lambda: load_text(text_folder), capfd)
    transformers.AutoModel.from_config(FAMILIES["wavlm"]()).save_pretrained(audio_folder.with_name("wavlm"))
    shutil.copy(text_folder / WEIGHTS, audio_folder / WEIGHTS)
    assert "of a 'wav2vec2' model are missing" in refusal(lambda: load_audio(audio_folder), capfd)


def test_weights_of_other_shapes_are_refused(text_folder, capfd):
    edit(text_folder / "config.json", intermediate_size=64)
    problem = refusal(lambda: load_text(text_folder), capfd)
    assert "intermediate.dense.bias is 48, not 64, and 11 more" in problem


def test_constant_weights_are_refused(text_folder, audio_folder, capfd):
    state = tensors(text_folder)
    name = next(name for name in state if name.endswith("word_embeddings.weight"))
    for embeddings, words in (
        (torch.zeros_like(state[name]), "all zero"),
        (torch.ones_like(state[name]), "all the same"),
    ):
        save_weights(text_folder, {**state, name: embeddings})
        assert f"token embeddings are {words}" in refusal(lambda: load_text(text_folder), capfd)
    save_weights(audio_folder, {name: torch.zeros_like(tensor) for name, tensor in tensors(audio_folder).items()})
    assert "weights are all zero" in refusal(lambda: load_audio(audio_folder), capfd)


def test_bert_weights_in_a_roberta_folder_are_refused(text_folder, capfd):
    edit(text_folder / "config.json", model_type="roberta")
    assert "those of a BertModel" in refusal(lambda: load_text(text_folder), capfd)


def test_complete_folders_are_accepted_in_every_format(text_folder, audio_folder):
    for folder, load in ((text_folder, text_encoder.load_encoder), (audio_folder, audio_encoder.load_encoder)):
        expected = load(str(folder)).state_dict()
        assert len(shard(folder)) > 1
        for name, tensor in load(str(folder)).state_dict().items():
            assert torch.equal(tensor, expected[name]), name
        for file in folder.glob("model*"):
            file.unlink()
        torch.save(expected, folder / "pytorch_model.bin")
        for name, tensor in load(str(folder)).state_dict().items():
            assert torch.equal(tensor, expected[name]), name


def test_pointers_in_unused_files_are_accepted(text_folder):
    for name in ("pytorch_model.bin", "tf_model.h5", "spiece.model", "vocab.txt"):
        (text_folder / name).write_text(POINTER)
    assert load_text(text_folder) == ()


def test_a_body_without_its_pooler_is_accepted(text_folder):
    save_weights(text_folder, {name: t for name, t in tensors(text_folder).items() if "pooler" not in name})
    assert load_text(text_folder) == ()


def normalizes(folder):
    audio_encoder.load_extractor.cache_clear()
    return audio_encoder.load_pretrained_encoder(str(folder), None, "").normalize


def test_preprocessor_settings_are_read(audio_folder, capfd):
    assert normalizes(audio_folder) is False
    file = audio_folder / "preprocessor_config.json"
    copies = [shutil.copytree(audio_folder, audio_folder.with_name(name)) for name in ("none", "other", "cut")]
    (copies[0] / file.name).unlink()
    assert normalizes(copies[0]) is True
    for value, words in (
        ("3", "sampling_rate is 3 Hz: from"),
        ("many", "'many', is not a sample rate"),
        ([16000], "is not a sample rate"),
    ):
        edit(copies[1] / file.name, sampling_rate=value)
        audio_encoder.load_extractor.cache_clear()
        audio_encoder.verify_encoder.cache_clear()
        assert words in refusal(lambda: load_audio(copies[1]), capfd)
    for rate, expected in (("24000", 24000), ("16000", 16000), (16000.0, 16000), (None, 16000)):
        edit(copies[1] / file.name, sampling_rate=rate)
        audio_encoder.load_extractor.cache_clear()
        assert audio_encoder.sample_rate_of(str(copies[1])) == expected
        assert normalizes(copies[1]) is False
    (copies[2] / file.name).write_text(POINTER)
    assert "preprocessor_config.json is a Git LFS pointer" in refusal(lambda: load_audio(copies[2]), capfd)


def test_a_plan_reports_the_problems_of_both_encoders(text_folder, audio_folder, write_table):
    remove_tokenizer(text_folder)
    (audio_folder / WEIGHTS).write_text(POINTER)
    keys = {"phase": 3, "model__audio_encoder__model_name": str(audio_folder)}
    with pytest.raises(InputError) as error:
        plan_of(write_table({**song_rows(), "audio_file": [None] * 48}), text_folder, **keys)
    message = str(error.value)
    assert "no vocabulary" in message
    assert "Git LFS pointer" in message
