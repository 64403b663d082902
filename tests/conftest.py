"""Small things that tests share: tiny encoders on disk, tables of songs, examples without Ray."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one CPU: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
WORDS = ["door", "wall", "river", "salt", "clock", "lamp", "winter", "song", "but", "rather", "names", "bell"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=1, help="seeds of each point of the kill campaign")


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--kills")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RAINBOW_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def real_manifest() -> Path:
    path = REAL_DATA / "base_manifest_db.parquet"
    if not path.exists():
        pytest.skip("the real songs are not here")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece tokenizer over a small alphabet: every text has tokens, none of which is unknown."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    characters = string.ascii_lowercase + string.digits
    pieces = [*characters, *(f"##{c}" for c in characters), *string.punctuation, *WORDS]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    ids = {token: number for number, token in enumerate(vocabulary)}
    BertTokenizerFast(vocab=ids, model_max_length=64).save_pretrained(folder)
    return folder


TINY = {"vocab_size": 128, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 48}


def tiny_config(family: str) -> Any:
    """A transformers config of a family that is small enough to build anywhere."""
    import transformers

    if family == "bert":
        return transformers.BertConfig(**TINY, max_position_embeddings=96)
    if family == "roberta":
        return transformers.RobertaConfig(**TINY, max_position_embeddings=96, pad_token_id=1)
    if family == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=128, dim=32, n_heads=4, n_layers=4, hidden_dim=48, max_position_embeddings=96
        )
    if family == "modernbert":
        return transformers.ModernBertConfig(
            **TINY, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
            global_attn_every_n_layers=3, local_attention=8, max_position_embeddings=96, reference_compile=False,
        )  # fmt: skip
    assert family == "deberta-v2"
    return transformers.DebertaV2Config(
        **TINY, max_position_embeddings=96, relative_attention=True, position_buckets=16, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0, position_biased_input=False,
        conv_kernel_size=3, conv_act="gelu",
    )  # fmt: skip


def tiny_body(family: str, seed: int = 0) -> Any:
    import torch
    from transformers import AutoModel

    torch.manual_seed(seed)
    return AutoModel.from_config(tiny_config(family), dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Callable[[str], Path]:
    """A folder with a tiny encoder of a family and its tokenizer, as from a hub."""
    made: dict[str, Path] = {}

    def make(family: str = "deberta-v2") -> Path:
        if family not in made:
            import shutil

            made[family] = tmp_path_factory.mktemp(family)
            shutil.copytree(tiny_tokenizer_folder, made[family], dirs_exist_ok=True)
            tiny_body(family).save_pretrained(made[family])
        return made[family]

    return make


def song_rows(songs: int = 24, stems: int = 2, seed: int = 0) -> dict[str, list[Any]]:
    """Plain columns: songs whose label goes with the word `but`, long enough for the filters."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"id": [], "track_id": [], "concept": [], "has_rebracketing_markers": [], "album": []}
    for song in range(songs):
        marked = song % 2 == 0
        words = [w for w in rng.choice(WORDS, 14) if w != "but"]
        if marked:
            words.insert(3, "but")
        for stem in range(stems):
            rows["id"].append(f"{song // 8:02d}_{song % 8:02d}")
            rows["track_id"].append(stem)
            rows["concept"].append(" ".join(words) + f" number {'abcdefghijklmnopqrstuvwxyz'[song % 26] * 3} of it")
            rows["has_rebracketing_markers"].append(marked)
            rows["album"].append(f"album {song // 8}")
    return rows


LABELLED = 36
HOSTILE = "<script>alert(1)</script> & <b>bold</b>"


def labelled_songs() -> pa.Table:
    """Songs whose type and intensity go with their words; one concept is hostile, and one label of each kind wrong."""
    rows = song_rows(songs=LABELLED, stems=1)
    marked = np.array(rows["has_rebracketing_markers"])
    rows["concept"][5] += " " + HOSTILE
    kinds = np.where(marked, "spatial", np.where(np.arange(LABELLED) % 3 == 0, "causal", "temporal"))
    kinds[5], marked[5] = "spatial", True
    rows["has_rebracketing_markers"] = marked.tolist()
    rows["rebracketing_type"] = kinds.tolist()
    rows["both"] = [[kind, "loud"] if i % 4 == 0 else [kind] for i, kind in enumerate(kinds)]
    rows["rebracketing_intensity"] = np.where(marked, 2.0 + np.arange(LABELLED) / LABELLED, 0.0).tolist()
    return pa.table(rows)


def segment_rows(songs: int = 12, segments: int = 8, stems: int = 2, seed: int = 0) -> dict[str, list[Any]]:
    """Columns of a table of segments: each stretch has a word that tells its label in its first line only."""
    rng = np.random.default_rng(seed)
    words = {"spatial": "door", "temporal": "clock", "causal": "river"}
    names = ["song_id", "segment_index", "start_seconds", "end_seconds", "lyric_text", "segment_rebracketing_type",
             "segment_has_rebracketing_markers", "loudness", "structure_section", "rebracketing_type"]  # fmt: skip
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for song in range(songs):
        start = 2.0
        kinds = [str(rng.choice(list(words))) for _ in range(segments // 2 + 1)]
        for i in range(segments):
            kind = kinds[i // 2]
            told = words[kind] if i % 2 == 0 else "song"
            line = f"{' '.join(rng.choice(WORDS[4:], 4))} {told} of song {'abcdefghijklmnopqrstuvwxyz'[song % 26] * 3}"
            end = start + float(rng.uniform(1.0, 5.0))
            values = [f"{song:02d}", i, start, end, line, kind, kind != "causal", float(i), f"Verse {i // 2 + 1}",
                      "spatial" if song % 2 else "temporal"]  # fmt: skip
            for _ in range(stems):
                for name, value in zip(names, values, strict=True):
                    rows[name].append(value)
            start = end
    return rows


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., Path]:
    """Write columns as a parquet file and return its path."""

    def write(columns: dict[str, Any] | pa.Table, name: str = "songs.parquet") -> Path:
        path = tmp_path / name
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
        return path

    return write


@pytest.fixture
def songs_file(write_table: Callable[..., Path]) -> Path:
    return write_table(song_rows())


@pytest.fixture
def stems_file(tmp_path: Path) -> Path:
    """24 songs of 1 to 3 stems; audio everywhere but on some, MIDI on every other; the first two songs lack text."""
    from tests.modalities.audio.test_audio import saved, tone
    from tests.modalities.midi.test_midi import song

    rows = song_rows(songs=24, stems=3)
    kept = [i for i in range(72) if i % 3 <= (i // 3) % 3]
    rows = {name: [values[i] for i in kept] for name, values in rows.items()}
    rows["rebracketing_type"] = ["spatial" if marked else "temporal" for marked in rows["has_rebracketing_markers"]]
    ids = list(dict.fromkeys(rows["id"]))
    rows["concept"] = [
        None if name in ids[:2] else text for name, text in zip(rows["id"], rows["concept"], strict=True)
    ]
    rows["audio_file"] = [None if i % 5 == 4 else "a.wav" if i % 2 else "b.wav" for i in range(len(kept))]
    rows["midi_file"] = ["a.mid" if i % 2 == 0 else None for i in range(len(kept))]
    (tmp_path / "a.wav").write_bytes(saved(tone(2.0)))
    (tmp_path / "b.wav").write_bytes(saved(tone(2.0, pitch=900)))
    (tmp_path / "a.mid").write_bytes(song())
    path = tmp_path / "songs.parquet"
    pq.write_table(pa.table(rows), path)
    return path


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Any]:
    """One private Ray for the tests of a file that need one in their own process: the next file may start its own."""
    from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

    prepare_environment()
    with ray_cluster(None) as cluster:
        yield cluster


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser; tests that look at pages are skipped without one."""
    import shutil

    from playwright.sync_api import sync_playwright

    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium or Chrome: make browser")
    with sync_playwright() as playwright:
        # the sandbox refuses to start as root, as in most containers
        flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()


# fixtures of finished runs and sweeps
from tests.finished_runs import finished, swept  # noqa: E402, F401
