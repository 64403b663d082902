"""Encoders from a hub: downloaded once, then cached, and refused without delay if the hub is unreachable."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from rainbow_ray.modalities import hub, pretrained
from rainbow_ray.modalities.audio import encoder as audio_encoder
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.utils.errors import InputError
from tests.modalities.encoder_folders import (
    refusal,
)


def test_paths_are_not_requested_from_the_hub(tmp_path, monkeypatch):
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


class Hub(http.server.BaseHTTPRequestHandler):
    """A minimal hub with one repository and one commit."""

    folder: Path
    requests: list[str]

    def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.requests.append(self.path)
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
    """Enable requests to a hub with an empty cache; return a function that sets the address of the hub."""
    from huggingface_hub import constants

    hub._test_connection.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def use_address(address: str) -> None:
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # it caches its own address
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )

    yield use_address
    hub._test_connection.cache_clear()


@contextlib.contextmanager
def serving(folder: Path):
    requests: list[str] = []
    handler = type("Handler", (Hub,), {"folder": folder, "requests": requests})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("load", [text_encoder.load_config, audio_encoder.load_config])
def test_an_unreachable_hub_is_refused_without_output(load, online, capfd):
    online(f"http://127.0.0.1:{closed_port()}")
    start = time.perf_counter()
    problem = refusal(lambda: load("some/other-encoder"), capfd)
    assert time.perf_counter() - start < 5
    assert "cannot be reached" in problem
    assert "was not downloaded before" in problem
    assert "embedded`, or name a local folder" in problem


def test_a_hub_that_does_not_answer_times_out(online, monkeypatch, capfd):
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.3)
    with socket.socket() as unanswered:
        unanswered.bind(("127.0.0.1", 0))
        unanswered.listen()
        online(f"http://127.0.0.1:{unanswered.getsockname()[1]}")
        start = time.perf_counter()
        assert "cannot be reached" in refusal(lambda: text_encoder.load_config("some/other-encoder"), capfd)
        assert time.perf_counter() - start < 5


def test_encoders_are_downloaded_once_and_then_cached(online, text_folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    with serving(text_folder) as (address, requests):
        online(address)
        assert text_encoder.load_config("some/encoder").model_type == "bert"
        loaded = text_encoder.load_encoder("some/encoder").state_dict()
        assert requests.count("/") == 1
    for name, tensor in text_encoder.load_encoder(str(text_folder)).state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    for is_offline, port in ((False, closed_port()), (True, closed_port())):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
        online(f"http://127.0.0.1:{port}")
        tokenize.load_tokenizer.cache_clear()
        tokenize.load_plain_tokenizer.cache_clear()
        assert text_encoder.load_encoder("some/encoder").state_dict().keys() == loaded.keys()
        assert constants.HF_HUB_OFFLINE is is_offline
