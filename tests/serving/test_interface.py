"""The HTTP interface in the test process: its responses, rejected requests, and no traceback in any response."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from starlette.testclient import TestClient

from rainbow_ray.serving.app import MAX_TEXTS, make_app
from rainbow_ray.serving.auth import LOOPBACK_HOSTS, MAX_BODY_BYTES, SECURITY_HEADERS, AccessPolicy, hash_token
from rainbow_ray.serving.service import Service
from tests.helpers import finish_run, plan_of

pytestmark = pytest.mark.slow  # trains several models

TOKEN = "a token of many characters"
TEXT = "a door and a wall but a river"
N_RANDOM_REQUESTS = 1000


@pytest.fixture(scope="module")
def services(tmp_path_factory, tiny_encoder):
    """Return the service of a model of a task, which is trained once per module."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.song_tables import labelled_songs, segment_rows

    config_keys: dict[str, dict[str, Any]] = {
        "binary": {"phase": 1},
        "multiclass": {"phase": 2},
        "regression": {"phase": 4},
        "multilabel": {"phase": 2, "data__target_column": "both", "data__multi_label": True},
        "segmentation": {"phase": 5, "segments__compare_none": False},
    }
    cached = {}

    def make(task):
        if task not in cached:
            folder = tmp_path_factory.mktemp(f"served-{task}")
            keys = {**config_keys[task], "training__epochs": 2, "training__min_steps": 0, "data__folds": 2}
            table = folder / "songs.parquet"
            manifest = table
            if task == "segmentation":
                pq.write_table(pa.table(segment_rows(songs=10, segments=4)), table)
                manifest, keys["segments__path"] = "demo", str(table)
            else:
                pq.write_table(labelled_songs(), table)
            run = finish_run(plan_of(manifest, tiny_encoder("bert"), logging__report=False, **keys), folder / "run")
            cached[task] = Service(str(run), "cpu")
        return cached[task]

    return make


def client_of(service, policy=None, **headers):
    app = make_app(lambda: service, policy or AccessPolicy())
    return TestClient(app, base_url="http://127.0.0.1:8000", headers=headers, raise_server_exceptions=True)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression", "segmentation"])
def test_the_service_gives_the_predictions_of_a_loaded_model(services, task):
    service = services(task)
    with client_of(service) as client:
        response = client.post("/predict", json={"texts": [TEXT, "  ", TEXT + " and more"]})
    assert response.status_code == 200
    first, empty, _ = response.json()["predictions"]
    row = service.predictor.predict([TEXT]).iloc[0]
    names = service.predictor.score_names
    assert first["scores"] == pytest.approx({name.removeprefix("score_"): float(row[name]) for name in names}, abs=1e-5)
    expected = row["prediction"]
    assert first["prediction"] == (list(expected) if isinstance(expected, tuple) else pytest.approx(expected, abs=1e-5)
                                   if isinstance(expected, float) else expected)  # fmt: skip
    if service.predictor.bundle.novelty is None:
        assert task == "segmentation"
        assert "novelty" not in first
    else:
        assert first["novelty"] == pytest.approx(float(row["novelty"]), abs=1e-5)
    assert empty == {"prediction": None, "scores": {}, "reason": "no text"}


def test_words_of_the_requested_class_are_explained(services):
    service = services("multiclass")
    with client_of(service) as client:
        result = client.post("/explain", json={"text": TEXT, "label": "spatial"}).json()
        assert result["label"] == "spatial"
        assert {item["word"] for item in result["words"]} <= set(TEXT.split())
        rejected = client.post("/explain", json={"text": TEXT, "label": "nosuch"})
        assert rejected.status_code == 404
        assert "spatial" in rejected.json()["detail"]
        assert client.post("/explain", json={"text": " "}).status_code == 422


def test_segments_are_predicted_with_intervals(services):
    rows = [{"song": "s", "start": 3.0 * i, "end": 3.0 * i + 3, "text": f"door {i}"} for i in range(4)]
    with client_of(services("segmentation")) as client:
        response = client.post("/segments", json={"segments": rows}).json()
        assert [row["start"] for row in response["segments"]] == [0, 3, 6, 9]
        assert response["stretches"][0]["start"] == 0
        assert client.post("/segments", json={"segments": []}).status_code == 422
    with client_of(services("binary")) as client:
        assert client.post("/segments", json={"segments": rows}).status_code == 404


def test_times_of_requests_are_parsed_or_rejected_with_their_unit(services):
    def post(client, *times):
        rows = [{"song": "s", "start": start, "end": end, "text": "some words here"} for start, end in times]
        return client.post("/segments", json={"segments": rows})

    with client_of(services("segmentation")) as client:
        accepted = post(client, ("0:00", "1:23.5"), ("1:23.5", "PT1M30S"), (90, "100 s"))
        assert accepted.status_code == 200
        assert [row["end"] for row in accepted.json()["segments"]] == [83.5, 90, 100]
        assert accepted.json()["notes"] == []
        for times, message in [
            ((0, 210_000), "likely milliseconds: divide by 1000"),
            (("0:00", "00:01:23:12"), "frame rate"),
            (("soon", 5), "not a time"),
            ((0, "inf"), "infinite"),
            ((0, ""), "no time is given"),
            ((True, 5), "a number of seconds"),
            ((-1, 5), "greater than or equal to 0"),
            ((0, 10**400), ""),
        ]:
            rejected = post(client, times)
            assert rejected.status_code == 422, times
            assert message in rejected.text
        days = [(i * 1e-4, (i + 1) * 1e-4) for i in range(4)]
        assert "likely days" in post(client, *days).text
        assert "likely" in post(client, (0, 10_000), (10_000, 20_000)).json()["notes"][0]


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        ([{"song": " ", "start": 0, "end": 4, "text": "a"}, {"song": "x", "start": 0, "end": 4, "text": "b"}],
         ["no name of a song", None]),
        ([{"start": 0, "end": 4, "text": "first"}, {"start": 0, "end": 4, "text": "second"}], [None, None]),
        ([{"start": 0, "end": 4, "text": "the same"}] * 3, [None] * 3),
        ([{"start": 8, "end": 12, "text": "later"}, {"start": 0, "end": 4, "text": "earlier"}], [None, None]),
        ([{"start": 4, "end": 4, "text": "of no length"}, {"start": 5, "end": 1, "text": "backwards"}],
         ["segment of zero, negative or unknown length"] * 2),
        ([{"song": name, "start": 0, "end": 1, "text": ""} for name in ("", "\t", "b", "a", "b ")],
         ["no name of a song"] * 2 + [None] * 3),
        ([{"song": "\u200b \n", "start": 1, "end": 2, "text": "\n"}], [None]),
    ],
)  # fmt: skip
def test_each_segment_has_a_prediction_in_the_order_of_the_request(services, rows, reasons):
    service = services("segmentation")
    with client_of(service) as client:
        response = client.post("/segments", json={"segments": rows})
    assert response.status_code == 200
    predictions = response.json()["segments"]
    assert len(predictions) == len(rows)
    for row, prediction, reason in zip(rows, predictions, reasons, strict=True):
        assert {name: prediction[name] for name in row} == row
        assert prediction["reason"] == reason
        has_scores = all(prediction[name] is not None for name in ["prediction", *service.predictor.score_names])
        assert has_scores or reason is not None
    assert all(set(prediction) == set(predictions[0]) for prediction in predictions)


def test_segments_with_equal_times_are_scored_separately(services):
    service = services("segmentation")
    rows = [{"start": 0, "end": 4, "text": "a door but a wall"}, {"start": 0, "end": 4, "text": "salt and winter"}]
    with client_of(service) as client:
        first, second = client.post("/segments", json={"segments": rows}).json()["segments"]
    names = service.predictor.score_names
    assert [first[name] for name in names] != [second[name] for name in names]


def test_a_fused_model_reports_that_it_read_only_text(tmp_path, tiny_encoder):
    import pyarrow.parquet as pq

    from tests.modalities.midi.test_midi import song
    from tests.song_tables import labelled_songs

    (tmp_path / "a.mid").write_bytes(song())
    songs = labelled_songs()
    pq.write_table(songs.append_column("midi_file", [["a.mid"] * len(songs)]), tmp_path / "songs.parquet")
    plan = plan_of(
        tmp_path / "songs.parquet", tiny_encoder("bert"), phase=1, modalities=["text", "midi"], data__folds=1,
        data__media_cache=str(tmp_path / "cache"), training__epochs=1, training__min_steps=0, logging__report=False,
    )  # fmt: skip
    service = Service(str(finish_run(plan, tmp_path / "run")), "cpu")
    with client_of(service) as client:
        info = client.get("/info").json()
        predictions = client.post("/predict", json={"texts": [TEXT, " "]}).json()["predictions"]
    assert (info["modalities"], info["read_from_requests"]) == (["text", "midi"], ["text"])
    assert predictions[0]["modalities"] == "text"
    assert predictions[1] == {"prediction": None, "scores": {}, "reason": "no text"}


def test_requests_beyond_the_limits_are_rejected(services):
    with client_of(services("binary")) as client:
        bodies: list[Any] = [
            {"texts": []},
            {"texts": ["a"] * (MAX_TEXTS + 1)},
            {"texts": ["a" * 20_001]},
        ]
        for body in bodies:
            response = client.post("/predict", json=body)
            assert response.status_code == 422
            assert "aaaa" not in response.text, "the response does not repeat the request"
        assert client.post("/predict", content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
        chunks = (b"x" * 65_536 for _ in range(20))  # without a content-length header
        assert client.post("/predict", content=chunks).status_code == 413
        assert client.post("/predict", content=b"[" * 100_000).status_code in (400, 422)
        surrogate = client.post(
            "/predict", content=b'{"texts": ["\\ud800"]}', headers={"content-type": "application/json"}
        )
        assert surrogate.status_code == 422


def test_requests_need_the_token_a_known_host_and_the_same_origin(services):
    service = services("binary")
    policy = AccessPolicy(hash_token(TOKEN), None)
    with client_of(service, policy) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200
        for path in ("/info", "/nosuch"):
            assert client.get(path).status_code == 401
        for authorization in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            response = client.post("/predict", json={"texts": [TEXT]}, headers={"authorization": authorization})
            assert response.status_code == 401
        valid_headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict", json={"texts": [TEXT]}, headers=valid_headers).status_code == 200
    with client_of(service) as client:
        assert client.get("/info", headers={"host": "evil.example"}).status_code == 400
        assert client.get("/info", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/info", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/predict", {}, 401),
        ("/predict", {"authorization": "Bearer wrong"}, 401),
        ("/nosuch", {}, 401),
        ("/predict", {"authorization": f"Bearer {TOKEN}", "origin": "http://evil.example"}, 403),
        ("/predict", {"authorization": f"Bearer {TOKEN}", "content-length": str(MAX_BODY_BYTES + 1)}, 413),
    ],
)
def test_a_request_is_rejected_before_its_body_is_read(services, path, headers, status):
    app = make_app(lambda: services("binary"), AccessPolicy(hash_token(TOKEN), None))
    messages: list[Any] = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        messages.append(message)

    headers = {"host": "127.0.0.1", "content-type": "application/json", **headers}
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
             "root_path": "", "scheme": "http", "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1),
             "http_version": "1.1",
             "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert messages[0]["status"] == status


def test_hosts_are_checked(services):
    policy = AccessPolicy(allowed_hosts=(*LOOPBACK_HOSTS, "127.0.0.2"))
    with client_of(services("binary"), policy) as client:
        for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:8000", "[::1]:8000", "127.0.0.2"):
            assert client.get("/info", headers={"host": host}).status_code == 200, host
        for host in ("", "evil.example", "127.0.0.1.evil.example", "a@127.0.0.1", "[::2]", "127.0.0.1:x", "::1"):
            assert client.get("/info", headers={"host": host}).status_code == 400, host
        duplicate_hosts = [("host", "127.0.0.1"), ("host", "evil.example")]
        assert client.get("/info", headers=duplicate_hosts).status_code == 400


def test_every_response_has_the_security_headers(services, monkeypatch):
    service = services("binary")

    async def fail(texts):
        raise RuntimeError

    with client_of(service, AccessPolicy(hash_token(TOKEN))) as client:
        valid_headers = {"authorization": f"Bearer {TOKEN}"}
        responses = [
            client.get("/healthz"),
            client.get("/nosuch", headers=valid_headers),
            client.get("/info"),
            client.get("/info", headers={"host": "evil.example"}),
            client.get("/info", headers={"origin": "http://evil.example"}),
            client.post("/predict", content=b" " * (MAX_BODY_BYTES + 1), headers=valid_headers),
            client.post("/predict", json={}, headers=valid_headers),
        ]
        monkeypatch.setattr(service, "predict", fail)
        responses.append(client.post("/predict", json={"texts": [TEXT]}, headers=valid_headers))
    assert [response.status_code for response in responses] == [200, 404, 401, 400, 403, 413, 422, 500]
    for response in responses:
        assert SECURITY_HEADERS.items() <= dict(response.headers).items(), response
    assert responses[2].headers["www-authenticate"] == "Bearer"


def test_openapi_describes_the_token_where_one_is_needed(services):
    for policy, schemes in ((AccessPolicy(), {}), (AccessPolicy(hash_token(TOKEN)), {"HTTPBearer"})):
        with client_of(services("binary"), policy) as client:
            document = client.get("/openapi.json").json()
        assert document["components"].get("securitySchemes", {}).keys() == set(schemes)
        assert ("security" in document["paths"]["/predict"]["post"]) == bool(schemes)
        assert "security" not in document["paths"]["/healthz"]["get"]
        assert "Args:" not in str(document)
        assert "1,000,000 bytes" in document["info"]["description"]


def test_pages_need_no_network_and_cannot_be_framed(services):
    with client_of(services("binary")) as client:
        for path in ("/", "/docs"):
            page = client.get(path)
            assert page.status_code == 200
            assert page.headers["x-frame-options"] == "DENY"
            assert "https://" not in page.text.replace("https://fastapi.tiangolo.com", "")
        assert client.get("/static/swagger-ui-bundle.js").status_code == 200
        assert client.get("/static/../pyproject.toml").status_code == 404
        assert client.get("/static/%2e%2e/%2e%2e/__init__.py").status_code == 404
        document = client.get("/openapi.json").json()
    assert {"/predict", "/explain", "/segments", "/info", "/healthz"} <= set(document["paths"])


def test_an_internal_error_reveals_nothing_to_the_client(services, monkeypatch):
    service = services("binary")

    async def fail(texts):
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(service, "predict", fail)
    with client_of(service) as client:
        response = client.post("/predict", json={"texts": [TEXT]})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_fuzzed_requests_cause_no_internal_error(services):
    rng = random.Random(0)
    with client_of(services("binary")) as client:
        for _ in range(N_RANDOM_REQUESTS):
            method, path, body, headers = random_request(rng)
            response = client.request(method, path, content=body, headers=headers)
            assert response.status_code < 500, (method, path, body[:200], response.text)
            assert "Traceback" not in response.text
        assert client.post("/predict", json={"texts": [TEXT]}).status_code == 200


def random_request(rng: random.Random) -> tuple[Any, ...]:
    """Return the method, path, body and headers of a random request, most often an invalid one."""
    method = rng.choice(["GET", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
    path = rng.choice(
        ["/predict", "/explain", "/segments", "/info", "/healthz", "/", "/docs", "/static/", "/%00", "/a" * 50]
    )
    value: Any = rng.choice([None, 1, -1.5, 1e308, True, "", "a", "\x00", "é" * 50, [], {}, [[]], [None], ["a", 1],
                             ["x" * 500] * 70,
                             {"a": {"b": []}}, "\u202e", "😀" * 30, ["but"], [{"song": 1}], [{"start": -1, "end": "x"}],
                             [{"start": 1, "end": 0, "text": "but"}]])  # fmt: skip
    key = rng.choice(["texts", "text", "segments", "label", "", "__proto__"])
    body = json.dumps({key: value} if rng.random() < 0.8 else value).encode()
    for _ in range(rng.choice([0, 0, 1, 5, 40])):  # delete, insert or replace bytes
        position = rng.randrange(len(body) + 1)
        body = (
            body[:position]
            + rng.choice([b"", bytes([rng.randrange(256)]), body[:5]])
            + body[position + rng.choice([0, 1]) :]
        )
    content_type = rng.choice(
        ["application/json", "application/json", "text/plain", "application/xml", "multipart/form-data", ""]
    )
    headers: dict[str, Any] = {"content-type": content_type} if content_type else {}
    if rng.random() < 0.1:
        headers["authorization"] = rng.choice([b"Bearer", b"Bearer \xff", b"x" * 2000])
    return method, path, body, headers
