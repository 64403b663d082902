"""Shared fixtures: tiny encoders on disk, tables of songs, a private Ray, a browser."""

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

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.finished_runs import finished, swept  # noqa: F401 (fixtures)
from tests.song_tables import WORDS, song_rows

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=1, help="seeds of each point of the kill campaign")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the slow tests of a file in one worker, and those of all clusters too: their pods have fixed addresses."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return "tests/cluster" if is_slow and scope.startswith("tests/cluster/") else scope

    is_slow = "not slow" not in config.option.markexpr
    return Scheduling(config, log)


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
        pytest.skip("the real songs are not available")
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
    """Return the folder of a tiny encoder of a family and its tokenizer, as a model hub stores them."""
    folders: dict[str, Path] = {}

    def make(family: str = "deberta-v2") -> Path:
        if family not in folders:
            import shutil

            folders[family] = tmp_path_factory.mktemp(family)
            shutil.copytree(tiny_tokenizer_folder, folders[family], dirs_exist_ok=True)
            tiny_body(family).save_pretrained(folders[family])
        return folders[family]

    return make


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
    """24 songs of 1 to 3 stems: most stems have audio, every other has MIDI; the first two songs lack text."""
    from tests.modalities.audio.test_audio import saved, tone
    from tests.modalities.midi.test_midi import song

    rows = song_rows(songs=24, stems=3)
    selected = [i for i in range(72) if i % 3 <= (i // 3) % 3]
    rows = {name: [values[i] for i in selected] for name, values in rows.items()}
    rows["rebracketing_type"] = ["spatial" if marked else "temporal" for marked in rows["has_rebracketing_markers"]]
    ids = list(dict.fromkeys(rows["id"]))
    rows["concept"] = [
        None if name in ids[:2] else text for name, text in zip(rows["id"], rows["concept"], strict=True)
    ]
    rows["audio_file"] = [None if i % 5 == 4 else "a.wav" if i % 2 else "b.wav" for i in range(len(selected))]
    rows["midi_file"] = ["a.mid" if i % 2 == 0 else None for i in range(len(selected))]
    (tmp_path / "a.wav").write_bytes(saved(tone(2.0)))
    (tmp_path / "b.wav").write_bytes(saved(tone(2.0, pitch=900)))
    (tmp_path / "a.mid").write_bytes(song())
    path = tmp_path / "songs.parquet"
    pq.write_table(pa.table(rows), path)
    return path


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Any]:
    """A private Ray for the tests of one module that need one in the test process."""
    from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

    prepare_environment()
    with ray_cluster(None) as cluster:
        yield cluster


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser; tests of rendered pages are skipped without one."""
    import shutil

    from playwright.sync_api import sync_playwright

    path = next((executable for name in BROWSERS if (executable := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium or Chrome: make browser")
    with sync_playwright() as playwright:
        # as root, as in most containers, the sandbox does not start
        flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        instance = playwright.chromium.launch(executable_path=path, args=flags)
        yield instance
        instance.close()
