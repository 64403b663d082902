"""`serve` through the real command, on a real Ray Serve: requests, the form in a browser, and its end."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rainbow_ray
from rainbow_ray import serve
from rainbow_ray.cli.main import run_command
from rainbow_ray.serving import serve_command
from rainbow_ray.serving.serve_command import is_loopback
from tests.benchmarks.serving import free_port, wait_for
from tests.helpers import finish_run, plan_of
from tests.song_tables import labelled_songs

TEXT = "a door and a wall but a river"


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_encoder):
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("served")
    pq.write_table(labelled_songs(), folder / "songs.parquet")
    keys = {"phase": 2, "training__epochs": 4, "training__min_steps": 0, "data__folds": 2, "logging__report": False}
    return finish_run(plan_of(folder / "songs.parquet", tiny_encoder("bert"), **keys), folder / "run")


def send_request(url, body=None, **headers):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.slow
def test_the_command_serves_requests_and_the_form_until_it_is_stopped(model, tmp_path, request):
    port, token = free_port(), tmp_path / "token"
    command = [sys.executable, "-m", "rainbow_ray.serve", str(model), "--port", str(port), "--token-file", str(token)]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(port)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        url, secret = f"http://127.0.0.1:{port}", token.read_text().strip()
        assert send_request(f"{url}/predict", {"texts": [TEXT]})[0] == 401
        status, response = send_request(f"{url}/predict", {"texts": [TEXT, ""]}, authorization=f"Bearer {secret}")
        assert status == 200
        assert response["predictions"][0]["prediction"] in ("spatial", "temporal", "causal")
        assert response["predictions"][1]["reason"] == "no text"
        texts = [f"{TEXT} {i}" for i in range(32)]
        headers = {"authorization": f"Bearer {secret}"}
        with ThreadPoolExecutor(16) as pool:
            responses = list(pool.map(lambda text: send_request(f"{url}/predict", {"texts": [text]}, **headers), texts))
        assert {status for status, _ in responses} == {200}
        scores = [list(output["predictions"][0]["scores"].values()) for _, output in responses]
        np.testing.assert_allclose(scores, rainbow_ray.load(model).score_texts(texts), atol=1e-5)
        processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert secret not in processes
        assert secret not in (tmp_path / "log").read_text()
        use_form(request.getfixturevalue("browser"), url, secret, tmp_path / "form.png")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        log.close()
    assert "Traceback" not in (tmp_path / "log").read_text()


def use_form(browser, url: str, secret: str, screenshot) -> None:
    """Use the form as a person does."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#token", state="visible")
    page.fill("#token", secret)
    page.fill("#text", f"{TEXT} <script>alert(1)</script>")
    page.click("#ask")
    page.wait_for_selector("text=Words with the largest effect")
    assert page.locator(".row").count() >= 3
    assert page.locator("#out script").count() == 0
    page.screenshot(path=screenshot, full_page=True)
    page.goto(f"{url}/docs")
    page.wait_for_selector('[data-path="/predict"]')
    assert errors == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["--port", "0"], "--port 0"),
    (["--timeout", "0", "--replicas", "0"], "--replicas 0"),
    (["--host", "203.0.113.9"], "cannot listen there"),
])  # fmt: skip
def test_invalid_options_are_reported_before_anything_starts(model, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["serve", str(model), *arguments])
    monkeypatch.setattr(serve_command, "TOKEN_FILE", model / "token")
    assert run_command(serve.main) == 2
    output = capsys.readouterr().err
    assert message in output
    assert "Traceback" not in output


def test_short_tokens_and_readable_token_files_are_rejected(tmp_path, monkeypatch, capsys):
    file = tmp_path / "token"
    for text, mode, message in (("short", 0o600, "at least 16"), ("long enough to be one", 0o644, "chmod 600")):
        file.write_text(text)
        file.chmod(mode)
        monkeypatch.setattr("sys.argv", ["serve", str(tmp_path), "--port", str(free_port()), "--token-file", str(file)])
        assert run_command(serve.main) == 2
        assert message in capsys.readouterr().err


def test_a_folder_without_a_model_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["serve", str(tmp_path), "--port", str(free_port())])
    assert run_command(serve.main) == 2
    assert "no model here" in capsys.readouterr().err


HOSTS = {"127.0.0.1": True, "localhost": True, "::1": True, "127.0.0.2": True, "127.wiki.example": False,
         "0.0.0.0": False, "127.1": False}  # fmt: skip


@pytest.mark.parametrize(("host", "expected"), HOSTS.items())
def test_only_loopback_addresses_need_no_token(host, expected):
    assert is_loopback(host) is expected
