"""The predict command: its output, the files that it writes, and the input that it rejects."""

from __future__ import annotations

import decimal

import pandas as pd
import pyarrow as pa
import pytest

from rainbow_ray import predict
from rainbow_ray.bundle.bundle import Bundle, save_bundle
from rainbow_ray.cli.main import run_command
from rainbow_ray.inference.occlusion import word_effects
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.training.checkpoint import load_fitted_model
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, fit_fold, plan_of
from tests.song_tables import song_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_encoder):
    """A bundle whose label is the word `but`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("model")
    pq.write_table(pa.table(song_rows(songs=40)), folder / "songs.parquet")
    plan = plan_of(
        folder / "songs.parquet", tiny_encoder("bert"), training__epochs=60, training__head_learning_rate=0.01
    )
    data = data_of(plan)
    fit_fold(plan, data, folder / "fit")
    network, task = load_fitted_model(plan.config, plan.input_spec, data.task, folder / "fit")
    info = {"text_columns": ["concept"], "id_column": "id", "max_tokens": 64}
    save_bundle(folder / "bundle", Bundle(network, task, plan.input_spec.text, info), plan.config.model)
    return folder


WITH_BUT, WITHOUT_BUT = "a door and a wall but a river", "a door and a wall and a river"


@pytest.fixture
def run_predict(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        code = run_command(predict.main)
        output = capsys.readouterr()
        return code, output.out + output.err

    return call


def test_a_text_is_printed_with_the_words_that_change_its_score(model, run_predict):
    code, output = run_predict("--model", model / "bundle", "--text", WITH_BUT)
    assert code == 0
    assert "True" in output
    effects = word_effects(Predictor.load(model / "bundle"), WITH_BUT, "score")
    assert effects[0].word == "but"
    assert effects[0].effect > 0.2
    assert "but +" in output


def test_long_texts_are_searched_in_groups_of_words(model, monkeypatch):
    predictor = Predictor.load(model / "bundle")
    letters = "abcdefghijklm"
    filler = [a + b + c for a in letters for b in letters for c in "no"]  # 338 distinct words
    text = " ".join([*filler[:40], "but", *filler[40:]])
    batch_sizes = []
    score = Predictor.score_texts

    def count_texts(self, texts):
        batch_sizes.append(len(texts))
        return score(self, texts)

    monkeypatch.setattr(Predictor, "score_texts", count_texts)
    assert word_effects(predictor, text, "score")[0].word == "but"
    assert sum(batch_sizes) < 90


def test_texts_are_ranked_and_the_highest_are_shown(model, run_predict, tmp_path):
    text_file = tmp_path / "ideas.txt"
    text_file.write_text(f"{WITHOUT_BUT}\n\n{WITH_BUT}\n{WITHOUT_BUT} again\n")
    code, output = run_predict(
        "--model", model / "bundle", "--text-file", text_file, "--top", 1, "--out", tmp_path / "all.csv"
    )
    assert code == 0
    assert output.count("True") == 1
    assert "False" not in output  # below the top
    table = pd.read_csv(tmp_path / "all.csv")
    assert table["text"].tolist()[0] == WITH_BUT
    assert table["score"].is_monotonic_decreasing
    assert len(table) == 3


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl"])
def test_a_manifest_is_scored_row_by_row(model, run_predict, tmp_path, name):
    out = tmp_path / name
    code, output = run_predict("--model", model / "bundle", "--manifest", model / "songs.parquet", "--out", out)
    assert code == 0, output
    readers = {"parquet": pd.read_parquet, "csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True)}
    table = readers[name.split(".")[1]](out)
    assert list(table.columns) == ["id", "prediction", "score", "reason"]
    assert len(table) == 80
    content = out.read_bytes()
    code, output = run_predict("--model", model / "bundle", "--manifest", model / "songs.parquet", "--out", out)
    assert code == 2
    assert "--overwrite" in output
    assert out.read_bytes() == content
    code, _ = run_predict(
        "--model", model / "bundle", "--manifest", model / "songs.parquet", "--out", out, "--overwrite"
    )
    assert code == 0


def test_files_without_text_are_rejected(model, run_predict, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "latin.txt").write_bytes("d\xe9j\xe0 vu".encode("latin-1"))
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + WITH_BUT.encode())
    pq.write_table(pa.table({"id": ["a"], "concept": [["a", "b"]]}), tmp_path / "lists.parquet")
    bundle = model / "bundle"
    for arguments, message in (
        (["--text-file", tmp_path / "latin.txt"], "not UTF-8"),
        (["--manifest", tmp_path / "lists.parquet", "--out", tmp_path / "o.csv"], "not text"),
        (
            ["--manifest", model / "songs.parquet", "--out", tmp_path / "o.csv", "--rank-by-class", "x"],
            "nothing to rank",
        ),
        (["--text", WITH_BUT, "--out", tmp_path, "--overwrite"], "folder"),
    ):
        code, output = run_predict("--model", bundle, *arguments)
        assert (code, message in output) == (2, True), output
    assert "\ufeff" not in run_predict("--model", bundle, "--text-file", tmp_path / "marked.txt")[1]


@pytest.mark.parametrize("cells", [[["a", "door"], ["b"]], [["a"], ["b"]], [("a", "door"), "b"], [{"a": 1}, "b"],
                                   [{"a"}, "b"]])  # fmt: skip
def test_lists_in_a_text_column_are_rejected_by_name(model, cells):
    predictor = Predictor.load(model / "bundle")
    table = pd.DataFrame({"concept": pd.Series(cells, dtype=object)})
    for songs, name in ((table, "concept"), (pd.Series(cells, name="concept", dtype=object), "concept"),
                        (cells, "text")):  # fmt: skip
        with pytest.raises(InputError, match=f"column '{name}' has a .*, not text.* row 0"):
            predictor.predict(songs)
    arrow = pa.table({"concept": pa.array([["a", "door"], ["b"]])})
    for songs in (arrow, arrow.to_pandas()):
        with pytest.raises(InputError, match=r"column 'concept' (holds|has)"):
            predictor.predict(songs)


def test_texts_of_any_type_are_read_or_have_a_reason(model):
    predictor = Predictor.load(model / "bundle")
    result = predictor.predict([WITH_BUT, WITH_BUT.encode(), b"caf\xe9", None, float("nan"), pd.NA, "", 12])
    assert result["reason"].fillna("").tolist() == ["", "", "text that is not UTF-8", *["no text"] * 4, ""]
    assert result["score"][0] == pytest.approx(result["score"][1], abs=1e-6)
    table = pd.DataFrame({"concept": [WITH_BUT]}, index=["row"])
    assert predictor.predict(table).index.tolist() == ["row"]
    assert predictor.predict(pa.table({"concept": [WITH_BUT]}))["score"][0] == pytest.approx(
        result["score"][0], abs=1e-6
    )
    with pytest.raises(InputError, match="several columns 'concept'"):
        predictor.predict(pd.concat([table, table], axis=1))
    for songs in (7, {"concept": [WITH_BUT]}, {WITH_BUT}):
        with pytest.raises(InputError, match="contains no texts"):
            predictor.predict(songs)


@pytest.mark.parametrize("ids", [
    pa.array([9007199254740993, 9007199254740992, None]),
    pa.array([decimal.Decimal("1.10"), decimal.Decimal("12345678901234567890"), None]),
    pa.array([1.0, 2.5, None]), pa.array(["a", " b ", None]), pa.array(["a", "b", None]).dictionary_encode(),
    pa.array([b"a", b"caf\xe9", None]), pa.array([b"0123456789abcdef"] * 3, pa.binary(16)),
    pa.array([1.0, 2.5, None], pa.float32()),
])  # fmt: skip
def test_ids_are_written_as_training_writes_them(model, run_predict, tmp_path, ids):
    import pyarrow.parquet as pq

    from rainbow_ray.data.text_cells import id_column

    pq.write_table(pa.table({"id": ids, "concept": [WITH_BUT] * 3}), tmp_path / "songs.parquet")
    out = tmp_path / "out.parquet"
    code, output = run_predict("--model", model / "bundle", "--manifest", tmp_path / "songs.parquet", "--out", out)
    assert code == 0, output
    result = pq.read_table(out)["id"]
    assert result.type == pa.string()
    assert result.to_pylist() == id_column(ids).to_pylist()


def test_all_problems_are_reported_together(model, run_predict, tmp_path):
    code, output = run_predict(
        "--model", model / "bundle", "--manifest", "x", "--out", tmp_path / "no" / "out.txt", "--top", 0
    )
    assert code == 2
    assert "Traceback" not in output
    for message in (".parquet", "there is no folder", "--top 0"):
        assert message in output
    for arguments, message in (
        (["--model", tmp_path, "--text", "a"], "no model here"),
        (["--model", model / "bundle", "--text", "  "], "no text"),
        (["--model", model / "bundle", "--text-file", tmp_path / "none"], "no such file"),
        (["--model", model / "bundle", "--text", "a", "--rank-by-class", "spatial"], "this model has none"),
        (["--model", model / "bundle", "--manifest", model / "songs.parquet"], "--out"),
    ):
        code, output = run_predict(*arguments)
        assert code == 2, output
        assert message in output
        assert "Traceback" not in output
