"""200 damaged or hostile bundles: each is rejected with a message, or scores; none reads files outside its folder."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rainbow_ray
from rainbow_ray.bundle.integrity import file_hashes
from rainbow_ray.bundle.tensor_files import read_tensors
from rainbow_ray.inference.onnx_predictor import OnnxPredictor
from rainbow_ray.utils.errors import InputError
from tests.helpers import finish_run, plan_of
from tests.song_tables import labelled_songs

N_DAMAGED = 200
SECRET = "the secret of another folder"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_encoder):
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("intact")
    pq.write_table(labelled_songs(), folder / "songs.parquet")
    keys = {"phase": 2, "training__epochs": 1, "training__min_steps": 0, "data__folds": 2, "training__ensemble": True}
    run = finish_run(
        plan_of(folder / "songs.parquet", tiny_encoder("bert"), logging__report=False, **keys), folder / "r"
    )
    return run / "model"


def rehash(folder: Path) -> None:
    """Update the file hashes, as someone does who modifies a bundle on purpose."""
    document = json.loads((folder / "bundle.json").read_text())
    document["files"] = file_hashes(folder)
    (folder / "bundle.json").write_text(json.dumps(document))


def test_a_damaged_bundle_is_rejected_or_scores_and_reads_no_other_files(bundle, tmp_path, monkeypatch):
    (tmp_path / "secret.txt").write_text(SECRET)
    opened_paths = record_opened_paths(monkeypatch, tmp_path)
    n_rejected = 0
    for seed in range(N_DAMAGED):
        folder = tmp_path / f"b{seed}"
        shutil.copytree(bundle, folder)
        damage(folder, random.Random(seed))
        message = rejection_message(folder)
        n_rejected += message is not None
        assert message is None or (str(folder) in message and SECRET not in message)
        outside_paths = {path for path in opened_paths if "secret" in path}
        assert not outside_paths, outside_paths
        shutil.rmtree(folder)
    assert n_rejected > N_DAMAGED * 0.8


def rejection_message(folder: Path) -> str | None:
    """Return the message with which a bundle is rejected, or None if it scores."""
    try:
        rainbow_ray.load(folder).predict(["a door"])
    except InputError as error:
        return str(error)
    return None


def record_opened_paths(monkeypatch, root: Path) -> set[str]:
    opened_paths: set[str] = set()
    original_open = builtins.open

    def recording_open(file, *arguments, **keys):
        opened_paths.add(str(file))
        return original_open(file, *arguments, **keys)

    original_path_open = Path.open

    def recording_path_open(self, *arguments, **keys):
        opened_paths.add(str(self))
        return original_path_open(self, *arguments, **keys)

    monkeypatch.setattr(builtins, "open", recording_open)
    monkeypatch.setattr(Path, "open", recording_path_open)
    return opened_paths


def damage(folder: Path, rng: random.Random) -> None:
    """Damage or modify a bundle in one random way."""
    kinds = [remove_file, truncate_file, change_bytes, add_file, replace_with_link, set_hostile_config,
             set_hostile_description]  # fmt: skip
    rng.choice(kinds)(folder, rng)


def random_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def remove_file(folder: Path, rng: random.Random) -> None:
    if rng.random() < 0.3:
        shutil.rmtree(folder / "encoder")
    else:
        random_file(folder, rng).unlink()


def truncate_file(folder: Path, rng: random.Random) -> None:
    file = random_file(folder, rng)
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(max(1, len(data)))])


def change_bytes(folder: Path, rng: random.Random) -> None:
    file = random_file(folder, rng)
    data = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    file.write_bytes(bytes(data))
    if rng.random() < 0.5 and file.name != "bundle.json":
        rehash(folder)


def add_file(folder: Path, rng: random.Random) -> None:
    (folder / rng.choice(["pytorch_model.bin", "modeling.py", "x.pkl", "more.json"])).write_bytes(b"\x80\x04x.")
    if rng.random() < 0.5:
        rehash(folder)


def replace_with_link(folder: Path, rng: random.Random) -> None:
    target = folder / rng.choice(["tokenizer.json", "model.safetensors", "bundle.json"])
    target.unlink()
    target.symlink_to(folder.parent / "secret.txt")


def set_hostile_config(folder: Path, rng: random.Random) -> None:
    name, key, value = rng.choice(
        [
            ("tokenizer_config.json", "auto_map", {"AutoTokenizer": "x.Y"}),
            ("tokenizer_config.json", "vocab_file", "../secret.txt"),
            ("tokenizer_config.json", "tokenizer_file", "../secret.txt"),
            ("encoder/config.json", "auto_map", {"AutoModel": "x.Y"}),
            ("encoder/config.json", "hidden_size", 10**9),
            ("encoder/config.json", "num_hidden_layers", 10**9),
            ("encoder/config.json", "vocab_size", -1),
            ("encoder/config.json", "model_type", "../secret"),
            ("encoder/config.json", "num_attention_heads", 0),
        ]
    )
    document = json.loads((folder / name).read_text())
    document[key] = value
    (folder / name).write_text(json.dumps(document))
    rehash(folder)


def set_hostile_description(folder: Path, rng: random.Random) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    key = rng.choice(["format", "task", "members", "model", "files", "calibration", "modalities", "max_tokens"])
    document[key] = rng.choice([None, 9, -1, "x", [], {}, [{}], {"name": "os.system"}, {"../../secret.txt": "0" * 64}])
    (folder / "bundle.json").write_text(json.dumps(document))


def test_tensors_whose_header_length_looks_like_a_pickle_are_read(tmp_path):
    """The file starts with the length of its header; 640 is the first two bytes of a pickle of protocol 2."""
    file = tmp_path / "model.safetensors"
    for padding in range(400, 640):
        save_file({"head.weight": torch.ones(2)}, file, metadata={"padding": "x" * padding})
        if file.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of 640 bytes")
    assert read_tensors(file)["head.weight"].tolist() == [1.0, 1.0]


def test_a_pickle_in_place_of_tensors_is_not_opened(bundle, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it-ran"),)

    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(pickle.dumps(Hostile()))
    rehash(tmp_path / "b")
    with pytest.raises(InputError, match="pickle"):
        rainbow_ray.load(tmp_path / "b")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("value", [
    {"temperature": 0}, {"temperature": float("nan")}, {"temperature": -1}, {"temperature": "x"},
    {"knots": [[[0, 1], [0, 1]]]}, {"knots": [[[1, 0], [0, 1]]] * 3}, {"knots": [[[], []]] * 3}, {"thresholds": [0.5]},
])  # fmt: skip
def test_an_invalid_calibration_is_rejected(bundle, tmp_path, value):
    shutil.copytree(bundle, tmp_path / "b")
    document = json.loads((tmp_path / "b" / "bundle.json").read_text())
    (tmp_path / "b" / "bundle.json").write_text(json.dumps({**document, "calibration": value}))
    with pytest.raises(InputError, match="damaged"):
        rainbow_ray.load(tmp_path / "b")


def test_loading_makes_no_network_connection(bundle, tmp_path, monkeypatch):
    import socket

    connections: list[object] = []

    def refuse(self, address):
        connections.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for kind in ("dpt", "detr", "mask2former"):
        folder = tmp_path / kind
        shutil.copytree(bundle, folder)
        hostile = {
            "model_type": kind,
            "backbone": "some/repo",
            "use_pretrained_backbone": True,
            "backbone_config": None,
        }
        (folder / "encoder" / "config.json").write_text(json.dumps(hostile))
        rehash(folder)
        with pytest.raises(InputError):
            rainbow_ray.load(folder)
    (folder / "bundle.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="damaged"):
        rainbow_ray.load(folder)
    assert connections == []


def test_a_newer_format_recommends_a_newer_version(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    document = json.loads((tmp_path / "b" / "bundle.json").read_text())
    (tmp_path / "b" / "bundle.json").write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(InputError, match="install a newer rainbow_ray"):
        rainbow_ray.load(tmp_path / "b")


def test_a_folder_without_an_onnx_model_recommends_the_export(tmp_path):
    with pytest.raises(InputError, match="export RUN --onnx"):
        OnnxPredictor.load(tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "bundle.json", "member-1.safetensors"])
def test_a_git_lfs_pointer_recommends_git_lfs_pull(bundle, tmp_path, name):
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / name).write_text(POINTER)
    with pytest.raises(InputError, match=f"{name} is a Git LFS pointer, .* run `git lfs pull`"):
        rainbow_ray.load(tmp_path / "b")


def test_a_tokenizer_without_vocabulary_is_rejected(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / "tokenizer.json").unlink()
    rehash(tmp_path / "b")
    with pytest.raises(InputError, match="the model cannot be used: its tokenizer has no vocabulary") as caught:
        rainbow_ray.load(tmp_path / "b")
    assert str(tmp_path / "b") in str(caught.value)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_rejected(bundle, tmp_path):
    from transformers import AutoTokenizer

    shutil.copytree(bundle, tmp_path / "b")
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    tokenizer.add_tokens([f"word{i}" for i in range(60)])
    tokenizer.save_pretrained(tmp_path / "b")
    rehash(tmp_path / "b")
    with pytest.raises(InputError, match="beyond the 128 that the encoder has embeddings for"):
        rainbow_ray.load(tmp_path / "b")


def test_weights_that_are_not_finite_are_rejected(bundle, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(bundle, tmp_path / "b")
    tensors = {name: tensor.clone() for name, tensor in load_file(bundle / "model.safetensors").items()}
    next(tensor for tensor in tensors.values() if tensor.ndim == 2)[0, 0] = float("nan")
    save_file(tensors, tmp_path / "b" / "model.safetensors")
    rehash(tmp_path / "b")
    with pytest.raises(InputError, match="not finite numbers"):
        rainbow_ray.load(tmp_path / "b")


def test_special_tokens_in_texts_are_text_in_bundles_of_any_version(bundle, tmp_path, tiny_encoder):
    from rainbow_ray.modalities.text.tokenize import load_plain_tokenizer

    assert json.loads((bundle / "tokenizer_config.json").read_text())["split_special_tokens"] is True
    shutil.copytree(bundle, tmp_path / "b")  # like a bundle of an earlier version
    config = json.loads((bundle / "tokenizer_config.json").read_text())
    del config["split_special_tokens"]
    (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps(config))
    rehash(tmp_path / "b")
    texts = ["a door [PAD] wall", "[SEP] a [CLS]", "a door and a wall"]
    expected = load_plain_tokenizer(str(tiny_encoder("bert")))(texts)
    assert load_plain_tokenizer(str(bundle))(texts) == load_plain_tokenizer(str(tmp_path / "b"))(texts) == expected
    assert all(not {0, 1, 2, 3, 4} & set(row[1:-1]) for row in expected)
    scores = [
        rainbow_ray.load(folder).predict(texts).filter(like="score").to_numpy() for folder in (bundle, tmp_path / "b")
    ]
    assert (scores[0] == scores[1]).all()
