"""Encoders whose files are missing, damaged or another's are refused in a sentence; a hub is asked once."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.modalities import hub, pretrained
from rainbow_ray.modalities.audio import encoder as audio_encoder
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.utils.errors import InputError
from tests.conftest import tiny_body, tiny_config
from tests.helpers import data_of, plan_of
from tests.modalities.audio.test_audio import FAMILIES
from tests.song_tables import song_rows

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n"
PAGE = "<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
WEIGHTS = "model.safetensors"


class Marked:
    """An object whose unpickling would leave a trace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "it-ran"),)


def remove_tokenizer(folder: Path, *kept: str) -> None:
    for name in TOKENIZER:
        if name not in kept:
            (folder / name).unlink(missing_ok=True)


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def save_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS, {"format": "pt"})


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}  # the file is written anew


def shard(folder: Path) -> list[Path]:
    body = transformers.AutoModel.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    body.save_pretrained(folder, max_shard_size="40KB")
    return sorted(folder.glob("model-*.safetensors"))


def without_a_shard(folder: Path) -> None:
    shard(folder)[1].unlink()


def pointer_shard(folder: Path) -> None:
    shard(folder)[1].write_text(POINTER)


def damaged_index(folder: Path) -> None:
    shard(folder)
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": [')


def cut_off(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def pickle_as_safetensors(folder: Path) -> None:
    torch.save(tensors(folder), folder / WEIGHTS)


def pickled_objects(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"a": Marked(folder)}, folder / "pytorch_model.bin")


def cut_pickle(folder: Path) -> None:
    torch.save(tensors(folder), folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
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


def own_code(folder: Path) -> None:
    edit(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(folder / 'it-ran')!r})\n")


def quantized(folder: Path) -> None:
    save_weights(folder, {name: (tensor * 100).to(torch.int8) if tensor.ndim == 2 else tensor
                          for name, tensor in tensors(folder).items()})  # fmt: skip


def quantized_pickle(folder: Path) -> None:
    torch.save({name: (tensor.abs() * 100).to(torch.uint8) if tensor.ndim == 2 else tensor
                for name, tensor in tensors(folder).items()}, folder / "pytorch_model.bin")  # fmt: skip
    (folder / WEIGHTS).unlink()


# what is done to a folder, and what the message says: of text and of audio encoders
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
    "quantized": (quantized, "weights of type I8"),
    "quantized pickle": (quantized_pickle, "weights of type uint8"),
    "other names": (other_names, "its file has"),
    "fewer layers": (fewer_layers, "config.json has 2"),
    "own code": (own_code, "custom code, which is never run"),
    "config pointer": (lambda folder: (folder / "config.json").write_text(POINTER), "config.json is a Git LFS pointer"),
    "config cut": (lambda folder: (folder / "config.json").write_text('{"model_type": "be'), "config.json cannot be"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "the folder has no config.json"),
}


@pytest.fixture
def text_folder(tiny_encoder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_encoder("bert"), tmp_path / "text-encoder"))


@pytest.fixture
def audio_folder(tmp_path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "audio-encoder"
    transformers.AutoModel.from_config(FAMILIES["wav2vec2"]()).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


def refusal(load: Callable[[], object], capfd) -> str:
    """The one sentence that an encoder is refused with; nothing else is written."""
    capfd.readouterr()
    with pytest.raises(InputError) as caught:
        load()
    assert capfd.readouterr() == ("", "")
    (problem,) = caught.value.problems
    assert "Traceback" not in problem
    return problem


def load_text(folder: Path) -> tuple[str, ...]:
    text_encoder.load_config(str(folder))
    return text_encoder.verify_encoder(str(folder))


def load_audio(folder: Path) -> None:
    audio_encoder.load_config(str(folder))
    audio_encoder.verify_encoder(str(folder))


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


def test_weights_that_say_nothing_are_refused(text_folder, audio_folder, capfd):
    state = tensors(text_folder)
    name = next(name for name in state if name.endswith("word_embeddings.weight"))
    for made, words in ((torch.zeros_like(state[name]), "all zero"), (torch.ones_like(state[name]), "all the same")):
        save_weights(text_folder, {**state, name: made})
        assert f"token embeddings are {words}" in refusal(lambda: load_text(text_folder), capfd)
    save_weights(audio_folder, {name: torch.zeros_like(tensor) for name, tensor in tensors(audio_folder).items()})
    assert "weights are all zero" in refusal(lambda: load_audio(audio_folder), capfd)


def test_weights_of_bert_under_the_name_of_roberta_are_refused(text_folder, capfd):
    edit(text_folder / "config.json", model_type="roberta")
    assert "those of a BertModel" in refusal(lambda: load_text(text_folder), capfd)


@pytest.mark.parametrize(("file", "key", "value"), [("tokenizer_config.json", "model_max_length", 1),
                                                    ("tokenizer_config.json", "model_max_length", 0),
                                                    ("tokenizer_config.json", "model_max_length", -5),
                                                    ("tokenizer_config.json", "model_max_length", 7),
                                                    ("config.json", "max_position_embeddings", 1)])  # fmt: skip
def test_a_limit_without_room_for_a_text_is_refused(file, key, value, text_folder, capfd):
    edit(text_folder / file, **{key: value})
    name = str(text_folder)
    problem = refusal(lambda: tokenize.token_limit(name, TextEncoderConfig(), text_encoder.load_config(name)), capfd)
    assert f"{file} has {key} {value}, which is too short for a text" in problem


def test_whole_folders_are_accepted_in_every_format(text_folder, audio_folder):
    for folder, load in ((text_folder, text_encoder.load_encoder), (audio_folder, audio_encoder.load_encoder)):
        wanted = load(str(folder)).state_dict()
        assert len(shard(folder)) > 1
        for name, tensor in load(str(folder)).state_dict().items():
            assert torch.equal(tensor, wanted[name]), name
        for file in folder.glob("model*"):
            file.unlink()
        torch.save(wanted, folder / "pytorch_model.bin")
        for name, tensor in load(str(folder)).state_dict().items():
            assert torch.equal(tensor, wanted[name]), name


def test_a_pointer_that_is_not_needed_is_no_reason(text_folder):
    for name in ("pytorch_model.bin", "tf_model.h5", "spiece.model", "vocab.txt"):
        (text_folder / name).write_text(POINTER)
    assert load_text(text_folder) == ()


def test_a_body_without_its_pooler_is_accepted(text_folder):
    save_weights(text_folder, {name: t for name, t in tensors(text_folder).items() if "pooler" not in name})
    assert load_text(text_folder) == ()


# ---- tokenizers


TOKENIZER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (remove_tokenizer, "no vocabulary, so every word would be unknown: tokenizer.json or vocab.txt"),
    "its config alone": (lambda folder: remove_tokenizer(folder, "tokenizer_config.json"), "no vocabulary"),
    "pointer": (lambda folder: (folder / "tokenizer.json").write_text(POINTER), "tokenizer.json is a Git LFS pointer"),
    "empty": (lambda folder: (folder / "tokenizer.json").write_text(""), "tokenizer.json is empty"),
    "web page": (lambda folder: (folder / "tokenizer.json").write_text(PAGE), "tokenizer.json is a web page"),
    "cut off": (lambda folder: (folder / "tokenizer.json").write_text('{"model": {'), "the tokenizer cannot be read"),
    "an object": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the tokenizer cannot be read"),
    "config damaged": (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "the tokenizer cannot be"),
}


@pytest.mark.parametrize("damage", TOKENIZER_DAMAGES)
def test_an_encoder_without_its_tokenizer_is_refused(damage, text_folder, capfd):
    change, words = TOKENIZER_DAMAGES[damage]
    change(text_folder)
    problem = refusal(lambda: load_text(text_folder), capfd)
    assert problem.startswith(f"model.text_encoder.model_name: '{text_folder}'")
    assert words in problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "vocab.txt is a Git LFS pointer"),
        (PAGE + "door\nwall\n", "vocab.txt is a web page"),
        ("", "vocab.txt is empty"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", "no vocabulary"),
    ],
)
def test_a_list_of_words_that_is_none_is_refused(content, words, text_folder, capfd):
    remove_tokenizer(text_folder)
    (text_folder / "vocab.txt").write_text(content)
    assert words in refusal(lambda: load_text(text_folder), capfd)


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "distilbert", "xlm-roberta", "camembert", "albert", "t5"])
def test_families_whose_tokenizers_are_made_up_are_refused(family, tmp_path, capfd):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    CONFIG_MAPPING[family]().save_pretrained(tmp_path)
    problem = refusal(lambda: tokenize.load_plain_tokenizer(str(tmp_path)), capfd)
    assert "no vocabulary" in problem
    assert "tokenizer.json" in problem


def test_a_tokenizer_larger_than_the_embeddings_is_refused(text_folder, capfd):
    body = tiny_config("bert")
    body.vocab_size = 60
    transformers.AutoModel.from_config(body).save_pretrained(text_folder)
    assert "beyond the 60 that the encoder has embeddings for" in refusal(lambda: load_text(text_folder), capfd)


def test_special_tokens_that_no_text_reaches_need_no_embedding(text_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra {i}>" for i in range(60)]})
    tokenizer.save_pretrained(text_folder)
    assert len(tokenizer) > 128
    assert load_text(text_folder) == ()


def test_merges_that_are_missing_are_noticed(tmp_path, capfd):
    letters = "abcdefghij"
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}
    words = [f"{a}{b}{c}" for a in letters for b in letters for c in "xyz"]
    vocabulary |= {word: len(vocabulary) + number for number, word in enumerate(words)}
    tiny_body("roberta").save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert "merges" in refusal(lambda: tokenize.load_plain_tokenizer(str(tmp_path)), capfd)


def test_a_vocabulary_that_is_cut_off_is_warned_of(tmp_path, tiny_tokenizer_folder):
    shutil.copytree(tiny_tokenizer_folder, tmp_path, dirs_exist_ok=True)
    body = tiny_config("bert")
    body.vocab_size = 2000
    transformers.AutoModel.from_config(body).save_pretrained(tmp_path)
    (warning,) = load_text(tmp_path)
    assert "embeddings for 2000 tokens, but its tokenizer has only" in warning


def test_unknown_words_are_warned_of_and_refused_where_there_is_nothing_else(tiny_encoder, write_table):
    encoder = tiny_encoder("bert")

    def concepts(*words: str) -> list[str]:
        return [" ".join([words[n % len(words)]] * 14 + ["door"] * (n % 3) + [str(n)]) for n in range(24)]

    def warnings_of(songs: list[str]) -> list[str]:
        data = data_of(plan_of(write_table({**song_rows(stems=1), "concept": songs}), encoder))
        return [warning for warning in data.warnings if "unknown" in warning]

    assert warnings_of(concepts("riverbank")) == []
    (warning,) = warnings_of(concepts("река", "door wall"))
    assert f"unknown to the tokenizer of '{encoder}'" in warning
    with pytest.raises(InputError, match="unknown to the tokenizer"):
        warnings_of([" ".join(["река"] * (20 + n)) for n in range(24)])


# ---- preprocessors of sound


def test_what_a_preprocessor_says_is_read(audio_folder, capfd):
    assert audio_encoder.wants_normalized(str(audio_folder)) is False
    file = audio_folder / "preprocessor_config.json"
    copies = [shutil.copytree(audio_folder, audio_folder.with_name(name)) for name in ("none", "other", "cut")]
    (copies[0] / file.name).unlink()
    assert audio_encoder.wants_normalized(str(copies[0])) is True
    edit(copies[1] / file.name, sampling_rate=8000)
    assert "reads sound at 8000 Hz" in refusal(lambda: load_audio(copies[1]), capfd)
    for value, words in (
        ("8000", "at 8000 Hz"),
        ("many", "'many', is not a sample rate"),
        ([16000], "is not a sample rate"),
    ):
        edit(copies[1] / file.name, sampling_rate=value)
        audio_encoder.wants_normalized.cache_clear()
        audio_encoder.verify_encoder.cache_clear()
        assert words in refusal(lambda: load_audio(copies[1]), capfd)
    for right in ("16000", 16000.0, None):
        edit(copies[1] / file.name, sampling_rate=right)
        audio_encoder.wants_normalized.cache_clear()
        assert audio_encoder.wants_normalized(str(copies[1])) is False
    (copies[2] / file.name).write_text(POINTER)
    assert "preprocessor_config.json is a Git LFS pointer" in refusal(lambda: load_audio(copies[2]), capfd)


# ---- plans


def test_a_plan_names_what_is_wrong_with_both_encoders_at_once(text_folder, audio_folder, write_table):
    remove_tokenizer(text_folder)
    (audio_folder / WEIGHTS).write_text(POINTER)
    keys = {"phase": 3, "model__audio_encoder__model_name": str(audio_folder)}
    with pytest.raises(InputError) as caught:
        plan_of(write_table({**song_rows(), "audio_file": [None] * 48}), text_folder, **keys)
    said = str(caught.value)
    assert "no vocabulary" in said
    assert "Git LFS pointer" in said


def test_names_that_can_only_be_paths_ask_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "hub_problem", lambda: pytest.fail("the hub was asked"))
    (tmp_path / "model.safetensors").touch()
    for name, words in {
        str(tmp_path / "nothing"): "there is no such folder",
        "./nothing": "there is no such folder",
        "~/no/such/encoder": "there is no such folder",
        str(tmp_path / "model.safetensors"): "it is a file; name the folder",
    }.items():
        for load in (text_encoder.load_config, audio_encoder.load_config):
            with pytest.raises(InputError, match=words):
                load(name)


# ---- the hub


class Hub(http.server.BaseHTTPRequestHandler):
    """Just enough of a hub: one repository with one commit."""

    folder: Path
    asked: list[str]

    def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        if path == "/":
            return self.answer(b"hub", {})
        if path.startswith("/api/models/some/encoder"):
            files = [{"rfilename": file.name} for file in self.folder.iterdir()]
            kind = {"Content-Type": "application/json"}
            if "/tree/" in path:
                rows = [{"type": "file", "path": file.name, "size": 1, "oid": "0"} for file in self.folder.iterdir()]
                return self.answer(json.dumps(rows).encode(), kind)
            return self.answer(json.dumps({"id": "some/encoder", "sha": COMMIT, "siblings": files}).encode(), kind)
        file = self.folder / path.rpartition("/")[2]
        if not path.startswith("/some/encoder/resolve/") or not file.is_file():
            return self.answer(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, 404)
        return self.answer(file.read_bytes(), {"ETag": f'"{file.name}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A process that may ask a hub, with an empty cache; gives what sets the hub's address."""
    from huggingface_hub import constants

    hub._test_connection.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def use(address: str) -> None:
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # it keeps an address of its own
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )

    yield use
    hub._test_connection.cache_clear()


@contextlib.contextmanager
def serving(folder: Path):
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"folder": folder, "asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def closed_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.mark.parametrize("load", [text_encoder.load_config, audio_encoder.load_config])
def test_a_hub_out_of_reach_is_asked_once_and_in_silence(load, online, capfd):
    online(f"http://127.0.0.1:{closed_port()}")
    began = time.perf_counter()
    problem = refusal(lambda: load("some/other-encoder"), capfd)
    assert time.perf_counter() - began < 5
    assert "cannot be reached" in problem
    assert "was not downloaded before" in problem
    assert "embedded`, or name a local folder" in problem


def test_a_hub_that_does_not_answer_is_not_waited_for(online, monkeypatch, capfd):
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        online(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.perf_counter()
        assert "cannot be reached" in refusal(lambda: text_encoder.load_config("some/other-encoder"), capfd)
        assert time.perf_counter() - began < 5


def test_encoders_come_from_the_hub_and_later_from_its_cache(online, text_folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    with serving(text_folder) as (address, asked):
        online(address)
        assert text_encoder.load_config("some/encoder").model_type == "bert"
        loaded = text_encoder.load_encoder("some/encoder").state_dict()
        assert asked.count("/") == 1
    for name, tensor in text_encoder.load_encoder(str(text_folder)).state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    for is_offline, port in ((False, closed_port()), (True, closed_port())):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
        online(f"http://127.0.0.1:{port}")
        tokenize.load_tokenizer.cache_clear()
        tokenize.load_plain_tokenizer.cache_clear()
        assert text_encoder.load_encoder("some/encoder").state_dict().keys() == loaded.keys()
        assert constants.HF_HUB_OFFLINE is is_offline
