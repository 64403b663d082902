"""Paths with `~`, `file://`, relative parts and odd characters are resolved once, for every process."""

from __future__ import annotations

import argparse
import http.server
import os
import pickle
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.cli.config_arguments import make_parser, read_config
from rainbow_ray.cli.model_arguments import (
    make_export_parser,
    make_predict_parser,
    make_report_parser,
    make_serve_parser,
)
from rainbow_ray.config.keys import known_keys
from rainbow_ray.config.load import PATH_KEYS, override, resolve
from rainbow_ray.config.schema import Config
from rainbow_ray.data.manifest import Manifest, open_manifest
from rainbow_ray.runs.run_dir import has_same_config, open_run
from rainbow_ray.utils.errors import InputError, printable
from rainbow_ray.utils.paths import (
    expand,
    expand_space,
    folder_of,
    is_url,
    path_option,
    resolve_encoder,
    resolve_location,
    resolve_path,
)
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows

ODD_NAMES = ["which songs?.parquet", "a#b.parquet", "100%.parquet", "a%20b.parquet", "two\nlines.parquet",
             " a .parquet", "songs [1].parquet", "{a,b}*.parquet", "läder.parquet", "a::b.parquet", "key=1.parquet",
             "-m.parquet", "~songs.parquet", "a:b.parquet", "quo'te\".parquet", "back\\slash.parquet",
             "$HOME.parquet"]  # fmt: skip


def pickled_copy(manifest: Manifest) -> Manifest:
    """Return a manifest as a worker receives it."""
    return pickle.loads(pickle.dumps(manifest))  # noqa: S301


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_home_relative_and_file_url_paths_become_absolute(home, tmp_path):
    assert resolve_path("~/a") == home / "a"
    assert resolve_path("a/b") == tmp_path / "a" / "b"
    assert resolve_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert resolve_path(f"file://localhost{tmp_path}/a") == tmp_path / "a"
    (tmp_path / "a%20b").touch()
    assert resolve_path(f"file://{tmp_path}/a%20b") == tmp_path / "a%20b"
    assert resolve_path("~nobody-has-this-name/a") == tmp_path / "~nobody-has-this-name" / "a"
    for url in ("s3://bucket/a", "hf://datasets/a/b.parquet", "simplecache::http://x/a", "https://x/~me/a b?c#d"):
        assert resolve_location(url) == url
        assert expand(url) == url
        assert folder_of(url) is None
    assert not is_url("a::b.parquet")
    assert not is_url("/a/b://c")
    for empty in ("", "a\0b"):
        with pytest.raises(InputError):
            resolve_path(empty)


def test_every_key_and_option_that_is_a_path_expands_home(home, monkeypatch):
    (home / "encoder").mkdir()
    values = dict.fromkeys(PATH_KEYS, "~/encoder") | {"tune.space": "~/my_space.py:space"}
    config = resolve(None, {}, list(values.items())).config
    expected = {key: str(home / "encoder") for key in PATH_KEYS} | {"tune.space": f"{home}/my_space.py:space"}
    assert {key: config.at(key) for key in PATH_KEYS} == expected
    assert override(Config(), {"model.text_encoder.model_name": "~/encoder"}, "space") == override(
        Config(), {"model.text_encoder.model_name": str(home / "encoder")}, "space"
    )
    monkeypatch.setenv("RAINBOW_MANIFEST", "~/songs.parquet")
    (home / "c.yml").write_text("logging: {output_dir: ~/runs}\n")
    options = make_parser("train", "").parse_intermixed_args(["--config=~/c.yml", "--media-root=~/media"])
    config = read_config(options).config
    assert config.data.manifest_path == str(home / "songs.parquet")
    assert config.data.media_root == str(home / "media")
    assert config.logging.output_dir == str(home / "runs")
    parsed = make_predict_parser("").parse_args(
        ["--model=~/m", "--manifest=~/s.parquet", "--out=~/o.csv", "--media-root=~"]
    )
    assert (parsed.model, parsed.out, parsed.media_root) == (home / "m", home / "o.csv", home)
    assert parsed.manifest == str(home / "s.parquet")


def test_all_keys_that_name_files_are_path_keys():
    suffixes = ("path", "_root", "_dir", "_file", "_cache", "space", "model_name")
    keys = {key for key in known_keys() if key.endswith(suffixes)}
    assert keys == set(PATH_KEYS)


def test_command_line_options_that_name_files_use_one_type():
    import cluster.parser

    model_parsers = (make_predict_parser, make_export_parser, make_serve_parser, make_report_parser)
    parsers = [*(make("") for make in model_parsers), cluster.parser.make_parser(),
               *(make_parser(name, "") for name in ("train", "tune", "check"))]  # fmt: skip
    while parsers:
        for action in parsers.pop()._actions:
            assert action.type is not Path, action.option_strings or action.dest
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    for empty in ("", "a\0b"):
        with pytest.raises(argparse.ArgumentTypeError):
            path_option(empty)


def test_an_encoder_name_is_a_path_only_if_the_folder_exists(home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "embedded").mkdir()
    assert resolve_encoder("mine") == str(tmp_path / "mine")
    assert resolve_encoder("./other") == str(tmp_path / "other")
    for name in ("microsoft/deberta-v3-base", "bert-base-uncased", "embedded"):
        assert resolve_encoder(name) == name
    assert expand_space("tune_spaces.phase1:space") == "tune_spaces.phase1:space"


def test_empty_paths_are_refused_with_their_key():
    with pytest.raises(InputError) as error:
        resolve(None, {}, [("data.manifest_path", ""), ("logging.output_dir", "a\0b")])
    assert len(error.value.problems) == 2
    assert "data.manifest_path" in error.value.problems[0]


def test_runs_with_unexpanded_paths_of_an_earlier_version_can_resume(home, tmp_path):
    (tmp_path / "mine").mkdir()
    config = resolve(None, {}, [("logging.output_dir", "~/runs"), ("model.text_encoder.model_name", "mine")]).config
    run = open_run(config, "a", resume=False)
    assert run.path == (home / "runs" / "a").resolve()
    assert not (tmp_path / "~").exists()
    file = run.file("config.yaml")
    file.write_text(file.read_text().replace(str(tmp_path / "mine"), "mine").replace(str(home), "~"))
    assert has_same_config(run.path, config)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_file_name_is_read_as_it_is(home, tmp_path, name):
    table = pa.table(song_rows(4, 1))
    (tmp_path / "folder [x]?").mkdir()
    for path in (tmp_path / name, tmp_path / "folder [x]?" / name):
        pq.write_table(table, path)
    manifest = pickled_copy(open_manifest(name))
    assert manifest.location == str(tmp_path / name)
    assert manifest.read(["id"])["id"].to_pylist() == table["id"].to_pylist()
    assert "\n" not in str(manifest)
    assert open_manifest("folder [x]?").read(["id"]).num_rows == 4


def test_the_location_does_not_depend_on_the_working_folder(home, tmp_path, monkeypatch):
    pq.write_table(pa.table(song_rows(20, 1)), tmp_path / "songs.parquet")
    plan = plan_of(Path("songs.parquet"))
    manifest = pickled_copy(plan.manifest)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert manifest.read(["id"]).num_rows == 20
    assert open_manifest(plan.manifest.location).rows == 20
    assert folder_of(plan.manifest.location) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert data_of(plan_of("file://" + str(tmp_path / "songs.parquet"))).profile["songs"] == 20


def test_names_are_printed_on_one_line():
    assert printable("a\nb\x1b[31m\udce9") == "a\\nb\\x1b[31m\\udce9"
    assert printable("läder [1]") == "läder [1]"


def test_a_deleted_working_folder_is_an_error(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(InputError, match="working folder is gone"):
        resolve_path("songs.parquet")
    os.chdir(tmp_path)


@pytest.fixture
def server(tmp_path):
    """An HTTP server on loopback: `/ok` is a table and supports ranges; other paths give errors."""
    pq.write_table(pa.table(song_rows(20, 1)), tmp_path / "songs.parquet")
    content = (tmp_path / "songs.parquet").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            kind = self.path.partition("?")[0].strip("/").removesuffix(".parquet")
            code = int(kind) if kind.isdigit() else 200
            data = b"<!DOCTYPE html><html>Sign in</html>" if kind == "page" else content if code == 200 else b"no"
            byte_range = self.headers.get("Range")
            if byte_range and code == 200 and kind == "ok":
                first, last = byte_range.removeprefix("bytes=").split("-")
                complete, data, code = data, data[int(first) : int(last) + 1], 206
            self.send_response(code)
            if code == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(complete)}")
            if kind == "ok":
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Print nothing on stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_remote_table_is_read(server):
    manifest = open_manifest(f"{server}/ok.parquet?version=2")
    assert pickled_copy(manifest).read(["id"]).num_rows == 20
    with pytest.raises(InputError, match="prefix the URL with simplecache::"):
        open_manifest(f"{server}/whole.parquet").read(["id"])
    assert open_manifest(f"simplecache::{server}/whole.parquet").read(["id"]).num_rows == 20


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{server}/404.parquet", "no such file"),
        ("{server}/500.parquet", "the server answered with an error"),
        ("{server}/503.parquet", "the server answered with an error"),
        ("{server}/403.parquet", "access is denied"),
        ("{server}/401.parquet", "access is denied"),
        ("{server}/page", "a web page"),
        ("http://127.0.0.1:9/songs.parquet", "the server cannot be reached"),
        ("http://no-such-host.invalid/songs.parquet", "the server cannot be reached"),
        ("hf://datasets/nobody/nothing/songs.parquet", "cannot be reached"),
        ("hf://nonsense", "cannot be opened"),
        ("s3://no-such-bucket/songs.parquet", "package"),
        ("gs://no-such-bucket/songs.parquet", "package"),
        ("nonsense://x/y.parquet", "cannot be opened"),
        ("http://[bad/songs.parquet", "cannot be"),
        ("s3://", "package"),
    ],
)
def test_errors_of_remote_addresses_are_explained(server, address, words):
    location = address.format(server=server)
    with pytest.raises(InputError) as error:
        open_manifest(location).read(["id"])
    assert words in str(error.value)
    assert location in str(error.value)


def test_a_server_that_fails_during_reading_is_explained(server, monkeypatch):
    manifest = open_manifest(f"{server}/ok.parquet")

    def fail(*_: object, **__: object) -> None:
        raise OSError("502, Bad Gateway")

    monkeypatch.setattr(type(manifest.filesystem.handler.fs), "open", fail)
    with pytest.raises(InputError, match=r"column 'id' cannot be read: the server answered with an error \(502"):
        manifest.read(["id"])
