"""Tables scored in chunks: cut between songs, interrupted and resumed, merged; reasons of rows without a score."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rainbow_ray
from rainbow_ray import predict
from rainbow_ray.cli.main import run_command
from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.inference.batch_inference import ChunkScorer
from rainbow_ray.inference.chunks import Chunk, cut_chunks, read_chunk, song_boundaries
from tests.data.parquet_files import damage
from tests.helpers import finish_run, plan_of
from tests.song_tables import labelled_songs, segment_rows, song_rows

SHORT = {"training__epochs": 2, "training__min_steps": 0, "data__folds": 2, "logging__report": False}


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_encoder):
    runs = {}

    def make(phase):
        if phase not in runs:
            folder = tmp_path_factory.mktemp(f"phase{phase}")
            table = manifest = folder / "songs.parquet"
            keys = {"phase": phase, **SHORT}
            if phase == 5:
                pq.write_table(pa.table(segment_rows(songs=10, segments=5)), table)
                manifest, keys["segments__path"], keys["segments__compare_none"] = "demo", str(table), False
            else:
                pq.write_table(labelled_songs(), table)
            runs[phase] = finish_run(plan_of(manifest, tiny_encoder("bert"), **keys), folder / "run")
        return runs[phase]

    return make


@pytest.fixture
def run_predict(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        code = run_command(predict.main)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


def test_chunks_cover_all_rows_once_and_end_between_songs():
    codes = np.array([0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 4])
    cuts = song_boundaries(codes)
    assert cuts.tolist() == [2, 5, 6, 8, 12]
    chunks = cut_chunks(12, 4, cuts)
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 5), (5, 12)]
    interleaved_cuts = song_boundaries(np.array([0, 1, 0, 1, 2]))
    assert interleaved_cuts.tolist() == [4, 5]
    assert [(chunk.start, chunk.stop) for chunk in cut_chunks(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert cut_chunks(0, 4) == []


def test_a_range_is_read_across_row_groups_and_files(tmp_path):
    for i in range(2):
        rows = pa.table({"id": list(range(50 * i, 50 * i + 50))})
        pq.write_table(rows, tmp_path / f"{i}.parquet", row_group_size=7)
    manifest = open_manifest(str(tmp_path))
    for start, stop in ((0, 100), (3, 5), (48, 53), (99, 100), (13, 64)):
        batches = read_chunk(manifest, ["id"], Chunk(0, start, stop), 10)
        assert [value for batch in batches for value in batch.column(0).to_pylist()] == list(range(start, stop))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_chunks_give_the_scores_of_one_call(models, run_predict, tmp_path, suffix):
    rows = pd.DataFrame(song_rows(songs=30, stems=1))
    rows.loc[[3, 7], "concept"] = [None, " "]
    rows.to_parquet(tmp_path / "songs.parquet")
    out = tmp_path / f"scores{suffix}"
    arguments = ["--model", models(2), "--manifest", tmp_path / "songs.parquet", "--out", out, "--chunk-rows", "7"]
    code, output = run_predict(*arguments)
    assert code == 0, output
    assert "30 predictions" in output
    assert "2 (no text)" in output
    reader = {
        ".parquet": pd.read_parquet,
        ".csv": pd.read_csv,
        ".jsonl": lambda path: pd.read_json(path, lines=True, dtype={"id": str}),
    }[suffix]
    result, expected = reader(out), rainbow_ray.load(models(2)).predict(rows)
    scores = [name for name in expected if str(name).startswith("score")]
    np.testing.assert_allclose(result[scores].astype(float), expected[scores].astype(float), atol=1e-5)
    assert result["id"].tolist() == rows["id"].tolist()
    assert result["reason"].fillna("").tolist() == expected["reason"].fillna("").tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["songs.parquet", out.name])


def test_rows_without_valid_text_have_a_reason(models, run_predict, tmp_path):
    valid_text = "a door and a wall but a river"
    values = pa.array([valid_text.encode(), b"caf\xe9 door", None, b"", ("but " * 250_000).encode()], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(values), values.buffers())
    pq.write_table(pa.table({"id": list("abcde"), "concept": texts}), tmp_path / "songs.parquet")
    out = tmp_path / "o.parquet"
    code, output = run_predict("--model", models(1), "--manifest", tmp_path / "songs.parquet", "--out", out)
    assert code == 0, output
    result = pd.read_parquet(out)
    assert result["reason"].fillna("").tolist() == ["", "text that is not UTF-8", "no text", "no text", ""]
    assert result["score"].isna().tolist() == [False, True, True, True, False]


def test_segments_of_a_song_stay_together(models, run_predict, tmp_path):
    rows = pd.DataFrame(segment_rows(songs=12, segments=6))
    rows.to_parquet(tmp_path / "segments.parquet", row_group_size=5)
    arguments = ["--model", models(5), "--manifest", tmp_path / "segments.parquet", "--out"]
    assert run_predict(*arguments, tmp_path / "a.parquet", "--chunk-rows", "10")[0] == 0
    assert run_predict(*arguments, tmp_path / "b.parquet")[0] == 0
    names = ["song", "start", "prediction"]
    for suffix in ("a.parquet", "a.intervals.parquet"):
        chunked, at_once = (pd.read_parquet(tmp_path / name) for name in (suffix, suffix.replace("a.", "b.", 1)))
        pd.testing.assert_frame_equal(chunked[names], at_once[names])
    scores = [name for name in chunked if str(name).startswith("score")]
    np.testing.assert_allclose(chunked[scores], at_once[scores], atol=1e-5)


def test_an_interrupted_job_is_resumed_only_with_the_same_inputs(models, run_predict, tmp_path):
    pd.DataFrame(song_rows(songs=30, stems=1)).to_parquet(tmp_path / "songs.parquet")
    out = tmp_path / "o.csv"
    (tmp_path / "o.csv.parts").mkdir()
    (tmp_path / "o.csv.parts" / "plan.json").write_text('{"model": "another", "parts": []}')
    arguments = ["--model", models(1), "--manifest", tmp_path / "songs.parquet", "--out", out]
    code, output = run_predict(*arguments)
    assert (code, "--resume" in output) == (2, True)
    code, output = run_predict(*arguments, "--resume")
    assert (code, "different model" in output) == (2, True)
    assert run_predict(*arguments, "--overwrite")[0] == 0
    assert len(pd.read_csv(out)) == 30


def test_inputs_and_foreign_folders_are_never_overwritten(models, run_predict, tmp_path):
    songs, text_file = tmp_path / "songs.parquet", tmp_path / "ideas.csv"
    pd.DataFrame(song_rows(songs=10, stems=1)).to_parquet(songs)
    text_file.write_text("a door\n")
    content = songs.read_bytes()
    for arguments in (["--manifest", songs, "--out", songs], ["--text-file", text_file, "--out", text_file],
                      ["--manifest", tmp_path, "--out", tmp_path / "o.parquet"]):  # fmt: skip
        code, output = run_predict("--model", models(1), *arguments, "--overwrite")
        assert code == 2, output
        assert "another" in output
    assert songs.read_bytes() == content
    parts = tmp_path / "o.csv.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("foreign")
    for flag in ("--overwrite", "--resume"):
        code, output = run_predict("--model", models(1), "--manifest", songs, "--out", tmp_path / "o.csv", flag)
        assert (code, "something else exists there" in output) == (2, True)
    assert (parts / "thesis.txt").read_text() == "foreign"


def interrupt_prediction(models, run_predict, monkeypatch, songs, out, *extra):
    """Interrupt a prediction after its first chunk."""
    with monkeypatch.context() as patch:
        interrupt_after_first_chunk(patch)
        assert (
            run_predict("--model", models(1), "--manifest", songs, "--out", out, "--chunk-rows", "4", *extra)[0] == 130
        )


def test_chunks_of_other_tables_and_damaged_chunks_are_not_used(models, run_predict, monkeypatch, tmp_path):
    songs, out = tmp_path / "songs.parquet", tmp_path / "o.csv"
    rows = pd.DataFrame(song_rows(songs=10, stems=1))
    rows.to_parquet(songs)
    arguments = ["--model", models(1), "--manifest", songs, "--out", out, "--resume"]
    interrupt_prediction(models, run_predict, monkeypatch, songs, out)
    rows.assign(concept="another song of a door and a wall, as long as it must be").to_parquet(songs)
    code, output = run_predict(*arguments)
    assert (code, "different files" in output) == (2, True)
    interrupt_prediction(models, run_predict, monkeypatch, songs, out, "--overwrite")
    (tmp_path / "o.csv.parts" / "part-000000.parquet").write_bytes(b"PAR1 damaged")
    assert run_predict(*arguments)[0] == 0
    assert pd.read_csv(out, dtype=str)["id"].tolist() == rows["id"].tolist()
    out.unlink()
    interrupt_prediction(models, run_predict, monkeypatch, songs, out)
    (tmp_path / "o.csv.parts" / "plan.json").write_text("[")
    assert run_predict(*arguments)[0] == 0
    assert len(pd.read_csv(out)) == 10


def test_a_job_that_version_0_1_began_is_resumed(models, run_predict, monkeypatch, tmp_path):
    """That version wrote other keys in plan.json, and intervals as stretches-NNNNNN.parquet."""
    rows = pd.DataFrame(segment_rows(songs=6, segments=4))
    rows.to_parquet(tmp_path / "segments.parquet")
    arguments = ["--model", models(5), "--manifest", tmp_path / "segments.parquet", "--out"]
    assert run_predict(*arguments, tmp_path / "uninterrupted.parquet")[0] == 0
    with monkeypatch.context() as patch:
        scored_chunks = interrupt_after_first_chunk(patch)
        assert run_predict(*arguments, tmp_path / "o.parquet", "--chunk-rows", "16")[0] == 130
    folder = tmp_path / "o.parquet.parts"
    document = json.loads((folder / "plan.json").read_text())
    document["parts"], document["media root"] = document.pop("chunks"), document.pop("media_root")
    (folder / "plan.json").write_text(json.dumps(document))
    (folder / "intervals-000000.parquet").rename(folder / "stretches-000000.parquet")
    code, output = run_predict(*arguments, tmp_path / "o.parquet", "--resume")
    assert code == 0, output
    assert scored_chunks == [0]
    assert "rows were scored before" in output
    for name in ("{}.parquet", "{}.intervals.parquet"):
        resumed, uninterrupted = (pd.read_parquet(tmp_path / name.format(stem)) for stem in ("o", "uninterrupted"))
        columns = ["song", "start", "prediction"]
        pd.testing.assert_frame_equal(resumed[columns], uninterrupted[columns])


def interrupt_after_first_chunk(monkeypatch) -> list[int]:
    """Let the second chunk raise `KeyboardInterrupt`; return the numbers of the chunks that are scored."""
    score, numbers = ChunkScorer.score, []

    def score_first_chunk(self, chunk):
        if chunk.number:
            raise KeyboardInterrupt
        numbers.append(chunk.number)
        return score(self, chunk)

    monkeypatch.setattr(ChunkScorer, "score", score_first_chunk)
    return numbers


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_ids_are_written_unchanged(models, run_predict, tmp_path, suffix):
    numbers = pa.array([9007199254740993, None, 9007199254740995, 1], pa.int64())
    byte_strings = pa.array([b"caf\xe9", b"b", None, b"d"], pa.binary())
    invalid = pa.Array.from_buffers(pa.string(), len(byte_strings), byte_strings.buffers(), null_count=1)
    texts = ["a door and a wall but a river"] * 4
    for name, ids in (("numbers", numbers), ("invalid", invalid), ("bytes", byte_strings)):
        pq.write_table(pa.table({"id": ids, "concept": texts}), tmp_path / f"{name}.parquet")
        out = tmp_path / f"{name}{suffix}"
        code, output = run_predict("--model", models(1), "--manifest", tmp_path / f"{name}.parquet", "--out", out)
        assert code == 0, output
        assert out.read_text(encoding="utf-8").count("\n") == (5 if suffix == ".csv" else 4)
    assert "9007199254740993" in (tmp_path / f"numbers{suffix}").read_text()
    assert "9007199254740995" in (tmp_path / f"numbers{suffix}").read_text()


def test_scores_do_not_depend_on_the_type_of_the_text_column(models, run_predict, tmp_path):
    columns = {"integers": pa.array([12, 345]), "gaps": pa.array([12, None]), "text": pa.array(["12", "345"]),
               "dictionary": pa.array(["12", None]).dictionary_encode()}  # fmt: skip
    scores = {}
    for name, column in columns.items():
        pq.write_table(pa.table({"id": ["a", "b"], "concept": column}), tmp_path / f"{name}.parquet")
        out = tmp_path / f"{name}.out.parquet"
        code, output = run_predict("--model", models(1), "--manifest", tmp_path / f"{name}.parquet", "--out", out)
        assert code == 0, output
        scores[name] = pd.read_parquet(out)["score"][0]
    assert max(scores.values()) - min(scores.values()) < 1e-6
    assert rainbow_ray.load(models(1)).predict(pd.Series(["12", None], dtype="category"))["score"][0] == pytest.approx(
        scores["text"], abs=1e-6
    )


def test_segments_whose_text_is_not_utf8_are_scored_without_it(models, run_predict, tmp_path):
    rows = pa.table(segment_rows(songs=3, segments=4, stems=1))
    byte_strings = pa.array([b"caf\xe9"] + [b"door"] * 11, pa.binary())
    invalid = pa.Array.from_buffers(pa.string(), len(byte_strings), byte_strings.buffers())
    position = rows.column_names.index("lyric_text")
    pq.write_table(rows.set_column(position, "lyric_text", invalid), tmp_path / "s.parquet")
    out = tmp_path / "o.parquet"
    code, output = run_predict("--model", models(5), "--manifest", tmp_path / "s.parquet", "--out", out)
    assert code == 0, output
    assert len(pd.read_parquet(out)) == 12
    assert "1: text that is not UTF-8" in output


def test_damage_is_reported_with_file_and_column(models, run_predict, tmp_path):
    folder = tmp_path / "songs"
    folder.mkdir()
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(pa.table(song_rows(songs=30, stems=1)), folder / name, row_group_size=10)
    damage(folder / "b.parquet", 1, "concept")
    code, output = run_predict(
        "--model", models(1), "--manifest", folder, "--out", tmp_path / "o.csv", "--chunk-rows", "7"
    )
    assert code == 2, output
    assert "b.parquet, row group 1, column 'concept' cannot be read" in output
    assert "Traceback" not in output
    assert not (tmp_path / "o.csv").exists()


def test_workers_get_absolute_paths_and_notes_are_printed(models, run_predict, monkeypatch, tmp_path):
    (tmp_path / "which songs?").mkdir()
    for name in ("songs.parquet", "_old.parquet"):
        pq.write_table(pa.table(song_rows(songs=30, stems=1)), tmp_path / "which songs?" / name)
    (tmp_path / "model").symlink_to(models(1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    tasks = []
    original_init = ChunkScorer.__init__

    def record_task(self, task):
        tasks.append(task)
        original_init(self, task)

    monkeypatch.setattr(ChunkScorer, "__init__", record_task)
    code, output = run_predict("--model", "model", "--manifest=~/which songs?", "--out", "scores.csv")
    assert code == 0, output
    assert "1 parquet file is not read" in output
    task = tasks[0]
    assert (task.model, task.manifest) == (str(tmp_path / "model"), str(tmp_path / "which songs?"))
    assert task.media_root == task.manifest  # as in training, paths are relative to the folder of the table
    assert task.folder == tmp_path / "scores.csv.parts"
    assert len(pd.read_csv("scores.csv")) == 30


@pytest.mark.slow
def test_a_killed_prediction_is_resumed_on_ray(models, tmp_path):
    """After SIGKILL, written chunks are not scored again, and the scores equal those of one process."""
    rows = pd.DataFrame(song_rows(songs=4000, stems=1))
    rows["concept"] = [f"{text} {i}" for i, text in enumerate(rows["concept"])]
    rows.to_parquet(tmp_path / "songs.parquet")
    out, chunk_folder = tmp_path / "o.parquet", tmp_path / "o.parquet.parts"
    command = [sys.executable, "-m", "rainbow_ray.predict", "--model", str(models(1)), "--manifest",
               str(tmp_path / "songs.parquet"), "--out", str(out), "--workers", "2"]  # fmt: skip
    process = subprocess.Popen([*command, "--chunk-rows", "100"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(chunk_folder.glob("part-*.parquet"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    time.sleep(3)  # until its workers notice the loss
    written_times = {file.name: file.stat().st_mtime_ns for file in chunk_folder.glob("part-*.parquet")}
    assert 0 < len(written_times) < 40
    completed = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"{100 * len(written_times)} of 4000 rows were scored before" in completed.stdout
    result = pd.read_parquet(out)
    assert result["id"].tolist() == rows["id"].tolist()
    expected = rainbow_ray.load(models(1)).predict(rows)
    np.testing.assert_allclose(result["score"], expected["score"], atol=1e-5)
    assert not chunk_folder.exists()
