"""Folders of parquet files: hidden files, links, partitions, and tables of other formats."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.data.reader import read_sample
from tests.data.parquet_files import put, refused
from tests.helpers import plan_of
from tests.song_tables import song_rows

HIDDEN = [".ipynb_checkpoints/songs-checkpoint.parquet", "_temporary/0/part-0.parquet", "a/_b/c.parquet",
          ".songs.parquet.swp.parquet", "_old.PARQUET", ".Trash-1000/files/songs.parquet"]  # fmt: skip


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_tables_are_skipped_and_counted(tmp_path, hidden):
    put(tmp_path / "f" / "songs.parquet")
    put(tmp_path / "f" / hidden)
    manifest = open_manifest(str(tmp_path / "f"))
    assert manifest.rows == 24
    assert ["1 parquet file is not read" in note and hidden in note for note in manifest.notes] == [True]
    plan = plan_of(tmp_path / "f")
    assert manifest.notes[0] in plan.warnings


def test_system_files_in_folders_cause_no_note(tmp_path):
    folder = tmp_path / ".hidden" / "_f"  # below the folder that was named
    put(folder / "songs.PARQUET")
    put(folder / "more" / "x.Pq")
    (folder / "._songs.parquet").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
    (folder / ".empty.parquet").touch()
    for name in ("_SUCCESS", ".DS_Store", "README.md", "notes.csv", "._SUCCESS.crc"):
        (folder / name).write_bytes(b"\x00\x01 anything")
    pq.write_metadata(pq.read_schema(folder / "songs.PARQUET"), folder / "_common_metadata")
    manifest = open_manifest(str(folder))
    assert (manifest.rows, manifest.notes) == (48, ())
    assert open_manifest(str(put(tmp_path / "_songs.parquet"))).rows == 24  # named itself


def test_parquet_files_with_other_suffixes_are_counted(tmp_path):
    put(tmp_path / "f" / "a.parquet")
    put(tmp_path / "f" / "part-00000")
    assert (
        "1 parquet file is not read, since the name does not end in .parquet"
        in open_manifest(str(tmp_path / "f")).notes[0]
    )


def test_a_folder_of_hidden_tables_only_is_refused(tmp_path):
    put(tmp_path / "f" / "_a.parquet")
    message = refused(tmp_path / "f")
    assert "contains no parquet file" in message
    assert "_a.parquet" in message


def test_links_in_a_folder_are_followed_and_broken_ones_refused(tmp_path):
    put(tmp_path / "f" / "sub" / "a.parquet")
    (tmp_path / "f" / "sub" / "loop").symlink_to("..")
    put(tmp_path / "elsewhere" / "b.parquet")
    (tmp_path / "f" / "linked").symlink_to(tmp_path / "elsewhere")
    assert open_manifest(str(tmp_path / "f")).rows == 48
    (tmp_path / "f" / "c.parquet").symlink_to(tmp_path / "gone.parquet")
    assert "c.parquet is a link to a file that does not exist" in refused(tmp_path / "f")
    assert "a link to a file that does not exist" in refused(tmp_path / "f" / "c.parquet")


def test_partition_folders_become_columns(tmp_path):
    rows = pa.table(song_rows(24, 1)).drop_columns(["album", "has_rebracketing_markers"])
    for i in range(4):
        folder = (
            f"album={'a%20b' if i % 2 else '__HIVE_DEFAULT_PARTITION__'}/take=0{i}/has_rebracketing_markers={i // 2}"
        )
        put(tmp_path / "f" / folder / "x.parquet", rows.slice(6 * i, 6))
    manifest = open_manifest(str(tmp_path / "f"))
    columns = manifest.read(["take", "album", "id", "has_rebracketing_markers"]).to_pydict()
    order = [3, 1, 2, 0]  # files in the order of their paths
    assert sorted(zip(columns["id"], columns["take"], columns["has_rebracketing_markers"], strict=True)) == sorted(
        (rows["id"][6 * i + j].as_py(), f"0{i}", i // 2) for i in range(4) for j in range(6)
    )
    assert set(columns["album"]) == {None, "a b"}
    assert len(order) * 6 == manifest.rows
    assert "album, take, has_rebracketing_markers" in manifest.notes[0]
    assert manifest.read(["album"]).num_rows == 24  # of no file
    assert read_sample(manifest, ["take", "id"], 10).column_names == ["take", "id"]


def test_a_column_of_the_files_has_precedence_over_the_path(tmp_path):
    put(tmp_path / "f" / "album=other" / "x.parquet")
    assert set(open_manifest(str(tmp_path / "f")).read(["album"])["album"].to_pylist()) == {
        "album 0",
        "album 1",
        "album 2",
    }


def commit(folder: Path, version: int, *actions: dict[str, object]) -> None:
    log = folder / "_delta_log" / f"{version:020d}.json"
    log.parent.mkdir(exist_ok=True)
    log.write_text("\n".join(map(json.dumps, actions)) + "\n")


def test_a_delta_table_is_read_according_to_its_log(tmp_path):
    table, folder = pa.table(song_rows(24, 1)), tmp_path / "delta"
    put(folder / "old.parquet", table)
    put(folder / "new a.parquet", table.slice(0, 20))
    commit(folder, 0, {"metaData": {"configuration": {}}}, {"add": {"path": "old.parquet"}})
    commit(folder, 1, {"remove": {"path": "old.parquet"}}, {"add": {"path": "new%20a.parquet"}})
    manifest = open_manifest(str(folder))
    assert manifest.rows == 20
    assert "old.parquet" in manifest.notes[0]
    put(folder / "_delta_log" / f"{1:020d}.checkpoint.parquet", pa.table({"add": [{"path": "new%20a.parquet"}]}))
    (folder / "_delta_log" / f"{0:020d}.json").unlink()
    assert open_manifest(str(folder)).rows == 20
    commit(folder, 3, {"add": {"path": "old.parquet"}})
    assert "commits are missing" in refused(folder)
    commit(folder, 2, {"add": {"path": "gone.parquet"}})
    assert "are not in the folder (gone.parquet)" in refused(folder)
    commit(folder, 2, {"add": {"path": "old.parquet", "deletionVector": {"storageType": "u"}}})
    assert "deleted rows" in refused(folder)
    commit(folder, 2, {"metaData": {"configuration": {"delta.columnMapping.mode": "name"}}})
    assert "other names" in refused(folder)
    (folder / "_delta_log" / f"{2:020d}.json").write_text("{")
    assert "the log of this table cannot be read" in refused(folder)


def test_iceberg_and_hudi_tables_with_replaced_rows_are_refused(tmp_path):
    put(tmp_path / "f" / "data" / "a.parquet")
    metadata = tmp_path / "f" / "metadata"
    metadata.mkdir()
    append, overwrite = ({"summary": {"operation": kind}} for kind in ("append", "overwrite"))
    (metadata / "00001-x.metadata.json").write_text(json.dumps({"snapshots": [append, append]}))
    assert open_manifest(str(tmp_path / "f")).rows == 24
    (metadata / "00002-x.metadata.json").write_text(json.dumps({"snapshots": [append, overwrite]}))
    assert "an Iceberg table in which rows were replaced" in refused(tmp_path / "f")
    put(tmp_path / "h" / "a.parquet")
    (tmp_path / "h" / ".hoodie").mkdir()
    (tmp_path / "h" / ".hoodie" / "hoodie.properties").touch()
    assert "a Hudi table" in refused(tmp_path / "h")


def test_a_delta_table_without_files_has_no_rows(tmp_path):
    put(tmp_path / "d" / "a.parquet")
    commit(tmp_path / "d", 0, {"metaData": {}}, {"add": {"path": "a.parquet"}})
    commit(tmp_path / "d", 1, {"remove": {"path": "a.parquet"}})
    assert "the table has no rows" in refused(tmp_path / "d")


@pytest.mark.parametrize("line", ["null", "[]", "3", '{"add": "x"}', '{"add": {"path": 5}}', '{"metaData": []}',
                                  '{"metaData": {"configuration": "x"}}', "{", "\udcff"])  # fmt: skip
def test_damaged_lines_of_a_delta_log_are_named_with_their_file(tmp_path, line):
    put(tmp_path / "d" / "a.parquet")
    commit(tmp_path / "d", 0, {"add": {"path": "a.parquet"}})
    log = tmp_path / "d" / "_delta_log" / f"{1:020d}.json"
    log.write_bytes(line.encode("utf-8", "surrogateescape"))
    assert f"{log.name} is damaged" in refused(tmp_path / "d")


@pytest.mark.parametrize("text", ["null", "[]", "{", '{"snapshots": 3}', '{"snapshots": [null, 4]}',
                                  '{"snapshots": [{"summary": "append"}]}', '{"snapshot-log": 5}'])  # fmt: skip
def test_damaged_metadata_of_an_iceberg_table_is_named_with_its_file(tmp_path, text):
    put(tmp_path / "f" / "data" / "a.parquet")
    (tmp_path / "f" / "metadata").mkdir()
    (tmp_path / "f" / "metadata" / "00001-x.metadata.json").write_text(text)
    assert "metadata/00001-x.metadata.json is damaged" in refused(tmp_path / "f")


def test_links_in_hidden_folders_do_not_hide_their_targets(tmp_path):
    put(tmp_path / "f" / "data" / "deep" / "a.parquet")
    for hidden in (".cache", "_old"):
        (tmp_path / "f" / hidden).mkdir()
        (tmp_path / "f" / hidden / "data").symlink_to("../data")
        (tmp_path / "f" / hidden / "deep").symlink_to("../data/deep")
    manifest = open_manifest(str(tmp_path / "f"))
    assert (manifest.rows, manifest.notes) == (24, ())


def test_a_file_with_several_links_is_read_once(tmp_path):
    put(tmp_path / "f" / "data" / "album=1" / "b.parquet")
    (tmp_path / "f" / "a_latest").symlink_to("data")
    (tmp_path / "f" / "current").symlink_to("data/album=1")
    (tmp_path / "f" / "a.parquet").symlink_to("data/album=1/b.parquet")
    manifest = open_manifest(str(tmp_path / "f"))
    assert manifest.rows == 24
    assert manifest.files[0].endswith("data/album=1/b.parquet")
    assert any("links to a file that is already read: a.parquet" in note for note in manifest.notes)
    assert any("a_latest" in note and "current" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("kind", "values"), [(pa.string(), ["x", "2"]), (pa.int64(), [7, 2]), (pa.float64(), [0.5, 2.0])]
)
def test_a_missing_column_is_filled_from_the_path(tmp_path, kind, values):
    put(tmp_path / "f" / "key=1" / "a.parquet", pa.table({"key": pa.array(values[:1], kind), "n": [1]}))
    put(tmp_path / "f" / "key=2" / "b.parquet", pa.table({"n": [2]}))
    put(tmp_path / "f" / "other" / "c.parquet", pa.table({"n": [3]}))
    manifest = open_manifest(str(tmp_path / "f"))
    assert manifest.read(["key", "n"]).to_pydict() == {"key": [*values, None], "n": [1, 2, 3]}
    put(tmp_path / "f" / "key=y" / "d.parquet", pa.table({"n": [4]}))
    if pa.types.is_string(kind):
        assert open_manifest(str(tmp_path / "f")).read(["key"])["key"].to_pylist() == [*values, "y", None]
    else:
        assert f"'key=y' in the path is not a value of column 'key', which other files have as {kind}" in refused(
            tmp_path / "f"
        )
