"""Tables with unreadable audio or MIDI: counted, rejected above the limit of the run, otherwise warned of."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

import rainbow_ray
from rainbow_ray import predict
from rainbow_ray.cli.main import run_command
from rainbow_ray.inference.batch_inference import ChunkScorer
from rainbow_ray.inference.media_report import MediaWarning
from rainbow_ray.utils.errors import InputError
from tests.helpers import finish_run, plan_of
from tests.modalities.audio.test_audio import saved, tone
from tests.modalities.midi.test_midi import song
from tests.song_tables import labelled_songs, segment_rows

SONGS = 20
SHORT = {"training__epochs": 1, "training__min_steps": 0, "data__folds": 1, "logging__report": False,
         "model__audio_encoder__model_name": "embedded", "data__window_seconds": 0.5}  # fmt: skip


@pytest.fixture(scope="module")
def fused(tmp_path_factory, tiny_encoder):
    """A run of text, audio and MIDI, its songs, and the folder of their files."""
    folder = tmp_path_factory.mktemp("fused")
    media = folder / "media"
    media.mkdir()
    songs = labelled_songs().to_pandas().iloc[:SONGS]
    for i in range(SONGS):
        (media / f"{i}.wav").write_bytes(saved(tone(1.0, pitch=300.0 + 50 * i)))
        (media / f"{i}.mid").write_bytes(song(notes=[(0, 480, 40 + i), (480, 480, 50 + i)]))
    songs = songs.assign(audio_file=[f"{i}.wav" for i in range(SONGS)], midi_file=[f"{i}.mid" for i in range(SONGS)])
    songs.to_parquet(folder / "songs.parquet")
    keys = {**SHORT, "phase": 3, "data__media_root": str(media), "data__media_cache": str(folder / "cache")}
    return finish_run(plan_of(folder / "songs.parquet", tiny_encoder("bert"), **keys), folder / "run"), songs, media


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        code = run_command(predict.main)
        output = capsys.readouterr()
        return code, output.out + output.err

    return call


def scores_of(table):
    return table.filter(like="score").to_numpy(dtype=np.float64)


def read_all(media, names):
    return [(media / name).read_bytes() for name in names]


def test_each_type_of_cell_gives_the_scores_of_the_files(fused):
    folder, songs, media = fused
    model = rainbow_ray.load(folder, media_root=media)
    audio_files, midi_files = read_all(media, songs["audio_file"]), read_all(media, songs["midi_file"])
    samples = [soundfile.read(media / name, dtype="float32")[0] for name in songs["audio_file"]]
    columns_by_type = {
        "paths": {"audio_file": songs["audio_file"].map(Path), "midi_file": songs["midi_file"].map(Path)},
        "categories": {name: songs[name].astype("category") for name in ("audio_file", "midi_file")},
        "absolute": {"audio_file": [media.resolve() / name for name in songs["audio_file"]]},
        "bytes": {"audio_file": audio_files, "midi_file": midi_files},
        "buffers": {"audio_file": list(map(bytearray, audio_files)), "midi_file": list(map(memoryview, midi_files))},
        "mixed": {
            "audio_file": [content if i % 2 else name for i, (content, name) in
                           enumerate(zip(audio_files, songs["audio_file"], strict=True))],
            "midi_file": [np.bytes_(content) if i % 3 else Path(name) for i, (content, name) in
                          enumerate(zip(midi_files, songs["midi_file"], strict=True))],
        },
        "arrays": {"audio_file": samples, "audio_sample_rate": 16000},
        "lists": {"audio_file": [item.tolist() for item in samples], "audio_sample_rate": "16000"},
        "datasets": {"audio_file": [{"path": "x", "array": item, "sampling_rate": 16000} for item in samples]},
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model.predict(songs)
        assert set(expected["modalities"]) == {"text+audio+midi"}
        for name, columns in columns_by_type.items():
            result = model.predict(songs.assign(**columns))
            np.testing.assert_allclose(scores_of(result), scores_of(expected), atol=2e-3, err_msg=name)
            assert result["modalities"].tolist() == expected["modalities"].tolist(), name
        arrow = model.predict(pa.Table.from_pandas(songs, preserve_index=False))
        np.testing.assert_allclose(scores_of(arrow), scores_of(expected), atol=1e-5)


def test_missing_media_raise_input_error_or_warn(fused):
    folder, songs, media = fused
    with pytest.raises(InputError, match="no such folder"):
        rainbow_ray.load(folder, media_root=media / "nowhere")
    model = rainbow_ray.load(folder)  # names are relative to the current folder
    with pytest.raises(InputError) as caught:
        model.predict(songs)
    assert len(caught.value.problems) == 2
    for message in (f"none of {SONGS} audio files", "no such file (0.wav", str(Path.cwd()), "media_root=",
                    "allow_missing=True"):  # fmt: skip
        assert message in caught.value.problems[0]
    with pytest.warns(MediaWarning, match=f"{SONGS} audio files are treated as missing: no such file"):
        result = model.predict(songs, allow_missing=True)
    assert set(result["modalities"]) == {"text"}
    np.testing.assert_allclose(scores_of(result), scores_of(model.predict(songs["concept"])), atol=1e-5)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"audio_file": [np.zeros(16000, np.float32)] * SONGS}, "samples without a sample rate"),
        ({"audio_file": [np.ones(16000)] * SONGS, "audio_sample_rate": 0}, "a sample rate that no sound has"),
        ({"audio_file": [np.ones(16000)] * SONGS, "audio_sample_rate": [[16000]] * SONGS}, "a sample rate that no"),
        ({"audio_file": [b"this is no sound"] * SONGS}, "not readable as audio"),
        ({"audio_file": range(SONGS)}, "neither a file name"),
        ({"midi_file": [[60, 62]] * SONGS}, "in place of a MIDI file"),
    ],
)
def test_invalid_media_have_a_reason(fused, columns, reason):
    folder, songs, media = fused
    model = rainbow_ray.load(folder, media_root=media)
    with pytest.raises(InputError, match=reason) as caught:
        model.predict(songs.assign(**columns))
    assert "media root" not in str(caught.value), "the folder is not the cause"
    with pytest.warns(MediaWarning, match=reason):
        result = model.predict(songs.assign(**columns), allow_missing=True)
    assert set(result["modalities"]) == {"text+midi" if "audio_file" in columns else "text+audio"}


def test_a_few_missing_media_warn_and_rows_name_their_modalities(fused):
    folder, songs, media = fused
    model = rainbow_ray.load(folder, media_root=media)
    few_missing = songs.assign(audio_file=["gone.wav" if i < 4 else name for i, name in enumerate(songs["audio_file"])])
    with pytest.warns(MediaWarning, match="4 audio files are treated as missing"):
        result = model.predict(few_missing)
    assert result["modalities"].tolist() == ["text+midi"] * 4 + ["text+audio+midi"] * (SONGS - 4)
    with pytest.raises(InputError, match="only 15 of 20 audio files"):
        model.predict(
            few_missing.assign(
                audio_file=["gone.wav" if i < 5 else name for i, name in enumerate(few_missing["audio_file"])]
            )
        )
    with pytest.raises(InputError, match="only 15 of 20 audio files can be used"):  # all rows were read
        model.predict(songs.assign(audio_file=["gone.wav"] * 5 + songs["audio_file"].tolist()[5:]))


def test_a_column_without_any_file_raises_or_warns(fused):
    folder, songs, media = fused
    model = rainbow_ray.load(folder, media_root=media)
    no_audio = songs.assign(audio_file=None, concept=[None, *songs["concept"][1:]])
    with pytest.raises(InputError, match=r"no row names audio.*allow_missing=True"):
        model.predict(no_audio)
    with pytest.warns(MediaWarning, match="no row names audio"):
        result = model.predict(no_audio, allow_missing=True)
    assert result["modalities"].tolist() == ["midi"] + ["text+midi"] * (SONGS - 1)
    no_input = pd.DataFrame({"concept": [" "], "audio_file": [None], "midi_file": [None]})
    with pytest.warns(MediaWarning, match="no row names midi"):
        scored = model.predict(no_input, allow_missing=True)
    assert scored[["prediction", "modalities", "reason"]].values.tolist() == [[None, None, "nothing to read"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # only texts, no rows, and a modality that some rows have
        assert model.predict(["a door"])["modalities"].tolist() == ["text"]
        assert len(model.predict(songs.iloc[:0])) == 0
        some_audio = model.predict(songs.assign(audio_file=[*songs["audio_file"][:3], *[None] * (SONGS - 3)]))
    assert some_audio["modalities"].tolist() == ["text+audio+midi"] * 3 + ["text+midi"] * (SONGS - 3)


def test_a_table_without_the_column_is_not_a_table_of_texts(fused):
    folder, songs, media = fused
    model = rainbow_ray.load(folder, media_root=media)
    renamed = songs.rename(columns={"audio_file": "audio_files"})
    with pytest.raises(InputError, match=r"no column 'audio_file'.*did you mean audio_files"):
        model.predict(renamed)
    with pytest.warns(MediaWarning, match="no column 'audio_file'"):
        assert set(model.predict(renamed, allow_missing=True)["modalities"]) == {"text+midi"}


def test_the_command_rejects_missing_media_unless_they_are_allowed(fused, command, tmp_path):
    folder, songs, media = fused
    songs.to_parquet(tmp_path / "songs.parquet")
    out = tmp_path / "out.parquet"
    arguments = ["--model", folder, "--manifest", tmp_path / "songs.parquet", "--out", out]
    code, output = command(*arguments, "--media-root", tmp_path / "nowhere")
    assert (code, "no such folder" in output, "--allow-missing" in output) == (2, True, True), output
    code, output = command(*arguments)  # media are searched in the folder of the manifest, which has none
    assert code == 2
    for message in (f"none of {SONGS} audio files", f"none of {SONGS} midi files", "no such file (0.wav", str(tmp_path),
                    "--media-root", "--allow-missing"):  # fmt: skip
        assert message in " ".join(output.split())
    assert not out.exists()
    code, output = command(*arguments, "--allow-missing")
    assert code == 0, output
    assert f"{SONGS} audio files are treated as missing" in output
    assert set(pd.read_parquet(out)["modalities"]) == {"text"}
    code, output = command(*arguments, "--media-root", media, "--overwrite")
    assert code == 0, output
    assert "missing" not in output
    result = pd.read_parquet(out)
    assert list(result.columns)[-2:] == ["modalities", "reason"]
    assert set(result["modalities"]) == {"text+audio+midi"}
    assert b"media" not in (pq.read_schema(out).metadata or {})
    renamed = songs.rename(columns={"midi_file": "midi"})
    renamed.to_parquet(tmp_path / "songs.parquet")
    code, output = command(*arguments, "--media-root", media, "--overwrite")
    assert (code, "no column 'midi_file'" in output) == (2, True)
    assert len(pd.read_parquet(out)) == SONGS, "an existing file is not changed"


def test_the_command_rejects_a_column_without_any_file(fused, command, tmp_path):
    folder, songs, media = fused
    songs.assign(audio_file=pd.Series([None] * SONGS, dtype="string")).to_parquet(tmp_path / "songs.parquet")
    arguments = ["--model", folder, "--manifest", tmp_path / "songs.parquet", "--media-root", media]
    code, output = command(*arguments, "--out", tmp_path / "out.parquet")
    assert (code, "no row names audio" in output, "--allow-missing" in output) == (2, True, True), output
    assert not (tmp_path / "out.parquet").exists()
    code, output = command(*arguments, "--out", tmp_path / "out.parquet", "--allow-missing")
    assert (code, "Note: no row names audio" in output) == (0, True), output
    assert set(pd.read_parquet(tmp_path / "out.parquet")["modalities"]) == {"text+midi"}


def test_the_limit_applies_to_all_chunks_together(fused, command, tmp_path, monkeypatch):
    folder, songs, media = fused
    out, table = tmp_path / "out.csv", tmp_path / "songs.parquet"
    arguments = ["--model", folder, "--manifest", table, "--media-root", media, "--out", out, "--chunk-rows", "4"]
    scored_chunks: list[int] = []
    score = ChunkScorer.score

    def record_chunk(self, chunk):
        scored_chunks.append(chunk.number)
        return score(self, chunk)

    monkeypatch.setattr(ChunkScorer, "score", record_chunk)
    names = songs["audio_file"].tolist()
    # all rows of one chunk, a fifth of the table
    songs.assign(audio_file=["gone.wav"] * 4 + names[4:]).to_parquet(table)
    code, output = command(*arguments)
    assert (code, scored_chunks) == (0, [0, 1, 2, 3, 4]), output
    assert "4 audio files are treated as missing: no such file (gone.wav" in output
    assert pd.read_csv(out)["modalities"].value_counts().to_dict() == {"text+audio+midi": 16, "text+midi": 4}
    out.unlink()
    scored_chunks.clear()
    songs.assign(audio_file=["gone.wav"] * 8 + names[8:]).to_parquet(table)
    code, output = command(*arguments)
    assert (code, scored_chunks) == (2, [0, 1]), "the limit is exceeded whatever the other chunks contain"
    assert "none of 8 audio files read so far" in " ".join(output.split())
    assert not out.exists()
    code, output = command(*arguments, "--allow-missing")
    assert (code, scored_chunks) == (0, [0, 1, 2, 3, 4]), "scored chunks are not scored again"
    assert len(pd.read_csv(out)) == SONGS
    assert not (tmp_path / "out.csv.parts").exists()
    out.unlink()
    scored_chunks.clear()
    assert command(*arguments)[0] == 2
    songs.to_parquet(table)
    code, output = command(*arguments)
    assert (code, scored_chunks) == (0, [0, 1, 0, 1, 2, 3, 4]), "with other files all chunks are scored again"
    assert set(pd.read_csv(out)["modalities"]) == {"text+audio+midi"}


def test_options_without_effect_are_reported(fused, command, tmp_path):
    code, output = command("--model", fused[0], "--text", "a door", "--allow-missing")
    assert (code, "--allow-missing: applies only to --manifest" in output) == (2, True)
    code, output = command("--model", fused[0], "--text", "a door and a wall")
    assert (code, "count as missing" in " ".join(output.split())) == (0, True)
    (tmp_path / "ideas.txt").write_text("a door\na wall\n")
    code, output = command("--model", fused[0], "--text-file", tmp_path / "ideas.txt", "--out", tmp_path / "ideas.csv")
    assert code == 0, output
    assert pd.read_csv(tmp_path / "ideas.csv")["modalities"].tolist() == ["text", "text"]


def test_the_limit_is_read_from_the_bundle(fused, tmp_path):
    folder, songs, media = fused
    shutil.copytree(folder / "model", tmp_path / "model")
    file = tmp_path / "model" / "bundle.json"
    document = json.loads(file.read_text())
    assert document["max_unreadable_fraction"] == 0.2
    file.write_text(json.dumps({**document, "max_unreadable_fraction": 0.5}))
    half_missing = songs.assign(audio_file=["gone.wav"] * 10 + songs["audio_file"].tolist()[10:])
    with pytest.warns(MediaWarning, match="10 audio files"):
        rainbow_ray.load(tmp_path / "model", media_root=media).predict(half_missing)


@pytest.fixture(scope="module")
def fused_segments(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("fused-segments")
    (folder / "a.wav").write_bytes(saved(tone(30.0)))
    rows = segment_rows(songs=12, segments=4, stems=1)
    table = pd.DataFrame(rows).assign(audio_file="a.wav")
    table.to_parquet(folder / "segments.parquet")
    keys = {**SHORT, "phase": 5, "segments__path": str(folder / "segments.parquet"), "modalities": ["text", "audio"],
            "data__media_cache": str(folder / "cache"), "segments__compare_none": False}  # fmt: skip
    return finish_run(plan_of("demo", tiny_encoder("bert"), **keys), folder / "run"), table, folder


def test_the_limit_applies_to_segments(fused_segments, command, tmp_path):
    folder, table, media = fused_segments
    model = rainbow_ray.load(folder, media_root=media)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model.predict_segments(table)
        content = (media / "a.wav").read_bytes()
        mixed = model.predict_segments(table.assign(audio_file=[content if i % 2 else Path("a.wav") for i in
                                                                range(len(table))]))  # fmt: skip
    assert set(expected.segments["modalities"]) == set(mixed.segments["modalities"]) == {"text+audio"}
    wrong_root = rainbow_ray.load(folder, media_root=tmp_path)
    with pytest.raises(InputError, match=f"none of {len(table)} audio files"):
        wrong_root.predict_segments(table)
    with pytest.warns(MediaWarning, match="no such file"):
        result = wrong_root.predict_segments(table, allow_missing=True)
    assert set(result.segments["modalities"]) == {"text"}
    with pytest.raises(InputError, match="no column 'audio_file'"):
        model.predict_segments(table.drop(columns="audio_file"))
    table.to_parquet(tmp_path / "segments.parquet")
    out = tmp_path / "out.parquet"
    arguments = ["--model", folder, "--manifest", tmp_path / "segments.parquet", "--out", out]
    code, output = command(*arguments)
    assert (code, "none of" in output) == (2, True), output
    assert sorted(file.name for file in tmp_path.iterdir() if not file.is_dir()) == ["segments.parquet"]
    code, output = command(*arguments, "--media-root", media, "--chunk-rows", "8")
    assert code == 0, output
    np.testing.assert_allclose(scores_of(pd.read_parquet(out)), scores_of(expected.segments), atol=1e-5)
    assert set(pd.read_parquet(out)["modalities"]) == {"text+audio"}


def test_a_model_without_text_predicts_tables_of_media(tmp_path, tiny_encoder, fused):
    _, songs, media = fused
    songs.to_parquet(tmp_path / "songs.parquet")
    keys = {**SHORT, "phase": 3, "modalities": ["midi"], "data__media_root": str(media),
            "data__media_cache": str(tmp_path / "cache")}  # fmt: skip
    run_folder = finish_run(plan_of(tmp_path / "songs.parquet", tiny_encoder("bert"), **keys), tmp_path / "run")
    result = rainbow_ray.load(run_folder, media_root=media).predict(songs)
    assert set(result["modalities"]) == {"midi"}
    with pytest.raises(InputError, match="does not read text"):
        rainbow_ray.load(run_folder).predict(["a door"])
