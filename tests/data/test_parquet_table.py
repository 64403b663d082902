"""Tables of parquet files: which files of a folder they are, one type a column, and errors with file and column."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.data.parquet_table import RowGroup
from rainbow_ray.data.read_errors import explain_read_error
from rainbow_ray.data.reader import _task_groups, read_sample
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows


def put(path: Path, table: pa.Table | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(song_rows(24, 1)) if table is None else table, path, **options)
    return path


def refused(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        open_manifest(str(path))
    return str(caught.value)


HIDDEN = [".ipynb_checkpoints/songs-checkpoint.parquet", "_temporary/0/part-0.parquet", "a/_b/c.parquet",
          ".songs.parquet.swp.parquet", "_old.PARQUET", ".Trash-1000/files/songs.parquet"]  # fmt: skip


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_tables_are_passed_over_and_counted(tmp_path, hidden):
    put(tmp_path / "f" / "songs.parquet")
    put(tmp_path / "f" / hidden)
    manifest = open_manifest(str(tmp_path / "f"))
    assert manifest.rows == 24
    assert ["1 parquet file is not read" in note and hidden in note for note in manifest.notes] == [True]
    plan = plan_of(tmp_path / "f")
    assert manifest.notes[0] in plan.warnings


def test_what_systems_leave_in_folders_is_not_spoken_of(tmp_path):
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


def test_parquet_files_of_other_names_are_counted(tmp_path):
    put(tmp_path / "f" / "a.parquet")
    put(tmp_path / "f" / "part-00000")
    assert (
        "1 parquet file is not read, since the name does not end in .parquet"
        in open_manifest(str(tmp_path / "f")).notes[0]
    )


def test_a_folder_of_hidden_tables_only_says_so(tmp_path):
    put(tmp_path / "f" / "_a.parquet")
    said = refused(tmp_path / "f")
    assert "contains no parquet file" in said
    assert "_a.parquet" in said


def test_links_in_a_folder(tmp_path):
    put(tmp_path / "f" / "sub" / "a.parquet")
    (tmp_path / "f" / "sub" / "loop").symlink_to("..")
    put(tmp_path / "elsewhere" / "b.parquet")
    (tmp_path / "f" / "linked").symlink_to(tmp_path / "elsewhere")
    assert open_manifest(str(tmp_path / "f")).rows == 48
    (tmp_path / "f" / "c.parquet").symlink_to(tmp_path / "gone.parquet")
    assert "c.parquet is a link to a file that does not exist" in refused(tmp_path / "f")
    assert "a link to a file that does not exist" in refused(tmp_path / "f" / "c.parquet")


def test_folders_of_partitions_are_columns(tmp_path):
    rows = pa.table(song_rows(24, 1)).drop_columns(["album", "has_rebracketing_markers"])
    for i in range(4):
        folder = (
            f"album={'a%20b' if i % 2 else '__HIVE_DEFAULT_PARTITION__'}/take=0{i}/has_rebracketing_markers={i // 2}"
        )
        put(tmp_path / "f" / folder / "x.parquet", rows.slice(6 * i, 6))
    manifest = open_manifest(str(tmp_path / "f"))
    found = manifest.read(["take", "album", "id", "has_rebracketing_markers"]).to_pydict()
    order = [3, 1, 2, 0]  # files in the order of their paths
    assert sorted(zip(found["id"], found["take"], found["has_rebracketing_markers"], strict=True)) == sorted(
        (rows["id"][6 * i + j].as_py(), f"0{i}", i // 2) for i in range(4) for j in range(6)
    )
    assert set(found["album"]) == {None, "a b"}
    assert len(order) * 6 == manifest.rows
    assert "album, take, has_rebracketing_markers" in manifest.notes[0]
    assert manifest.read(["album"]).num_rows == 24  # of no file
    assert read_sample(manifest, ["take", "id"], 10).column_names == ["take", "id"]


def test_a_column_of_the_files_comes_before_one_of_the_path(tmp_path):
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


def test_a_delta_table_is_read_as_its_log_has_it(tmp_path):
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


def test_tables_of_other_formats_are_read_only_where_all_files_count(tmp_path):
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


CONTENTS = [
    (b"<!DOCTYPE html><html>", "a web page"), (b"\n <?xml version='1.0'?>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"), (b"id,concept\n1,a\n", "a text file"),
    ("\ufeffid;concept\n1;ä\n".encode(), "a text file"), (b"\x1f\x8b\x08\x00aaaa", "a gzip file"),
    (b"PK\x03\x04aaaa", "a zip"), (b"ARROW1\x00\x00", "an Arrow"), (b"PAR1", "not a complete parquet"),
    (b"\x00" * 64, "not a complete parquet"),
    (b"PARE" + b"\x00" * 40 + b"PARE", "an encrypted"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), CONTENTS)
def test_files_that_are_no_parquet_are_named_with_what_they_are(tmp_path, content, words):
    put(tmp_path / "f" / "a.parquet")
    (tmp_path / "f" / "b.parquet").write_bytes(content)
    (tmp_path / "f" / "c.parquet").write_bytes(content)
    said = refused(tmp_path / "f")
    assert "b.parquet" in said
    assert "c.parquet" in said
    assert words in said
    assert words in refused(tmp_path / "f" / "b.parquet")


def test_columns_of_other_types_in_one_file_are_named_with_their_files(tmp_path):
    table = pa.table(song_rows(24, 1))
    put(tmp_path / "f" / "a.parquet", table)
    put(tmp_path / "f" / "b.parquet", table.set_column(1, "track_id", pa.array(["x"] * 24)).drop_columns(["album"]))
    said = refused(tmp_path / "f")
    assert "column 'track_id' holds int64 in a.parquet and string in b.parquet" in said
    twice = pa.Table.from_arrays([*table.columns, table["album"]], names=[*table.column_names, "id"])
    put(tmp_path / "f" / "b.parquet", twice)
    assert "b.parquet has column 'id' twice" in refused(tmp_path / "f")
    assert "the file has column 'id' twice" in refused(tmp_path / "f" / "b.parquet")


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.string_view(), pa.string(), pa.string()),
        (pa.string(), pa.null(), pa.string()),
        (pa.binary_view(), pa.binary(), pa.binary()),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string()), pa.string()),
    ],
)
def test_one_text_in_several_encodings_is_one_type(tmp_path, one, other, wanted):
    for name, kind in (("a", one), ("b", other)):
        values = [None] if pa.types.is_null(kind) else [b"x" if "binary" in str(kind) else "x"]
        column = (
            pa.array(values).dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else pa.array(values, kind)
        )
        put(tmp_path / "f" / f"{name}.parquet", pa.table({"c": column}))
    manifest = open_manifest(str(tmp_path / "f"))
    assert manifest.read(["c"]).schema.field("c").type == wanted
    assert manifest.read(["c"])["c"].to_pylist()[0] in ("x", b"x")


def test_fields_of_structs_that_files_lack_are_null(tmp_path):
    put(tmp_path / "f" / "a.parquet", pa.table({"s": [{"x": 1}]}))
    put(tmp_path / "f" / "b.parquet", pa.table({"s": [{"y": "z"}], "more": [1]}))
    assert open_manifest(str(tmp_path / "f")).read().to_pylist() == [
        {"s": {"x": 1, "y": None}, "more": None}, {"s": {"x": None, "y": "z"}, "more": 1}]  # fmt: skip


def test_numbers_that_the_common_type_cannot_hold_are_refused_with_their_file(tmp_path):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": [2**53 + 1]}))
    put(tmp_path / "f" / "b.parquet", pa.table({"n": [0.5]}))
    manifest = open_manifest(str(tmp_path / "f"))
    with pytest.raises(InputError, match=r"a.parquet, row group 0, column 'n' cannot be read: .*9007199254740993"):
        manifest.read(["n"])


class Kms(pe.KmsClient):
    """A key server for tests: keys are wrapped in base64."""

    def __init__(self, config):
        super().__init__()

    def wrap_key(self, key, name):
        return base64.b64encode(key)

    def unwrap_key(self, key, name):
        return base64.b64decode(key)


def encrypt(path: Path, columns: list[str], *, plaintext_footer: bool) -> None:
    table = pa.table(song_rows(24, 1))
    how = pe.EncryptionConfiguration(footer_key="k", column_keys={"k2": columns}, plaintext_footer=plaintext_footer)
    properties = pe.CryptoFactory(Kms).file_encryption_properties(pe.KmsConnectionConfig(), how)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_encrypted_columns_are_named(tmp_path):
    path = tmp_path / "songs.parquet"
    encrypt(path, ["concept", "id"], plaintext_footer=True)
    with pytest.raises(InputError) as caught:
        data_of(plan_of(path))
    assert len(caught.value.problems) == 2
    for task, name in zip(caught.value.problems, ("id", "concept"), strict=True):
        assert f"column {name!r} cannot be read: it is encrypted" in task
    encrypt(path, ["album"], plaintext_footer=True)  # which is not read
    assert data_of(plan_of(path)).profile["songs"] == 24
    encrypt(path, ["concept"], plaintext_footer=False)
    assert "an encrypted parquet file" in refused(path)


def damage(path: Path, group: int, column: str) -> None:
    """Overwrite the first page of a column in a row group."""
    metadata = pq.read_metadata(path).row_group(group)
    chunk = next(c for i in range(metadata.num_columns) if (c := metadata.column(i)).path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 2 : start + chunk.total_compressed_size] = b"\xff" * (chunk.total_compressed_size - 2)
    path.write_bytes(content)


def test_damaged_pages_in_the_middle_are_named(tmp_path):
    put(tmp_path / "f" / "a.parquet")
    damaged = put(tmp_path / "f" / "b.parquet", row_group_size=6)
    damage(damaged, 2, "concept")
    plan = plan_of(tmp_path / "f")
    with pytest.raises(InputError, match=r"b.parquet, row group 2, column 'concept' cannot be read"):
        data_of(plan)
    manifest = open_manifest(str(damaged))
    assert manifest.read(["concept"], manifest.row_groups()[:2]).num_rows == 12
    assert manifest.read(["id"]).num_rows == 24
    with pytest.raises(InputError, match="column 'concept'"):
        manifest.read(["id", "concept"])


def test_checksums_of_pages_are_held_against_their_content(tmp_path):
    path = put(tmp_path / "a.parquet", compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"number aaa", b"number aab", 1))
    with pytest.raises(InputError, match="column 'concept' cannot be read"):
        open_manifest(str(path)).read(["concept"])


def test_files_that_go_away_or_cannot_be_opened(tmp_path):
    path = put(tmp_path / "a.parquet")
    manifest = open_manifest(str(path))
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        manifest.read(["id"])
    name = os.fsdecode(b"caf\xe9.parquet")
    put(tmp_path / "f" / "a.parquet").rename(tmp_path / "f" / name)
    for location in (tmp_path / "f", tmp_path / "f" / name):
        assert "caf\\udce9" in refused(location)
        assert "not UTF-8; rename it" in refused(location)
    assert "neither a file nor a folder" in refused("/dev/null")
    assert "patterns are not expanded" in refused(tmp_path / "*.parquet")


def test_rows_are_numbered_through_all_files(tmp_path):
    table = pa.table({"n": list(range(50))})
    put(tmp_path / "f" / "a.parquet", table.slice(0, 30), row_group_size=7)
    put(tmp_path / "f" / "b.parquet", table.slice(30, 0))
    put(tmp_path / "f" / "c.parquet", table.slice(30), row_group_size=9)
    manifest = open_manifest(str(tmp_path / "f"))
    assert manifest.read()["n"].to_pylist() == list(range(50))
    for group in manifest.row_groups():
        for size in (None, 4):
            found = [n for batch in manifest.batches(group, ["n"], size) for n in batch["n"].to_pylist()]
            assert found == list(range(group.start, group.start + group.rows))
    assert len(read_sample(manifest, ["n"], 10)) >= 10


def test_columns_of_any_name(tmp_path):
    names = ["a.b", "", "a", "a[0]", "two\nlines", "__fragment_index", "x=1", "ä"]
    path = put(tmp_path / "a.parquet", pa.table({name: [i] for i, name in enumerate(names)}))
    manifest = open_manifest(str(path))
    for i, name in enumerate(names):
        if not name.startswith("__"):  # which pyarrow keeps for itself
            assert manifest.read([name]).to_pydict() == {name: [i]}
    with pytest.raises(InputError, match="__fragment_index"):
        manifest.read(["__fragment_index"])


def test_small_row_groups_share_a_task():
    groups = [RowGroup(0, i, 0, rows) for i, rows in enumerate([1, 1, 5, 0, 9, 2, 0])]
    assert _task_groups(groups, 4) == [[0, 1, 2], [3, 4], [5, 6]]
    assert _task_groups(groups, 100) == [list(range(7))]
    assert _task_groups([], 4) == []


class StatusError(Exception):
    """As aiohttp's: the status beside a message that holds the address."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StatusError("Internal, url='http://127.0.0.1:40161/403/404.parquet'", 500), "answered with an error"),
        (StatusError("no, url='http://127.0.0.1:50012/500.parquet'", 404), "no such file"),
        (StatusError("no, url='http://127.0.0.1:50012/500.parquet'", 403), "access is denied"),
        (OSError("502, Bad Gateway"), "answered with an error"),
        (OSError("HTTP Error 503: busy"), "answered with an error"),
        (OSError("broken at http://x:40161/500/404.parquet"), "try again, or name a local copy"),
    ],
)
def test_a_status_is_not_taken_from_the_digits_of_an_address(error, words):
    assert words in explain_read_error(error, remote=True)


BIG = 2**53 + 1
FLOATS = [pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", [pa.decimal128(20, 0), pa.int64(), pa.uint64(), pa.float32(), pa.string()])
@pytest.mark.parametrize("other", [*FLOATS, pa.list_(pa.float64())])
@pytest.mark.parametrize("first", [True, False])
def test_files_without_rows_do_not_decide_a_type(tmp_path, kind, other, first):
    values = ["a", "b"] if pa.types.is_string(kind) else [0.5, 1.5] if pa.types.is_floating(kind) else [BIG, BIG + 1]
    table = pa.table({"n": pa.array(values, pa.float64() if pa.types.is_floating(kind) else kind)})
    put(tmp_path / "f" / f"{'a' if first else 'c'}.parquet", pa.table({"n": pa.array([], other)}))
    put(tmp_path / "f" / "b.parquet", table)
    assert open_manifest(str(tmp_path / "f")).read(["n"]).equals(table)


def test_a_column_of_files_without_rows_only_keeps_its_type(tmp_path):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([], pa.int8()), "x": pa.array([], pa.string())}))
    put(tmp_path / "f" / "b.parquet", pa.table({"x": ["y"]}))
    assert open_manifest(str(tmp_path / "f")).read().to_pydict() == {"n": [None], "x": ["y"]}


@pytest.mark.parametrize("wrap", [lambda kind: kind, pa.list_, lambda kind: pa.struct([("x", kind)])])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.decimal128(20, 0), pa.float64()),
        (pa.decimal128(10, 2), pa.float32()),
        (pa.decimal256(50, 2), pa.float64()),
        (pa.float32(), pa.float64()),
    ],
)
def test_types_whose_values_would_be_rounded_are_refused(tmp_path, one, other, wrap):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([None], wrap(one))}))
    put(tmp_path / "f" / "b.parquet", pa.table({"n": pa.array([None], wrap(other))}))
    message = refused(tmp_path / "f")
    stored = [pq.read_schema(tmp_path / "f" / name).types[0] for name in ("a.parquet", "b.parquet")]
    assert f"column 'n' holds {stored[0]} in a.parquet and {stored[1]} in b.parquet" in message
    assert "write it with one type in all files" in message


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.decimal128(10, 2), pa.decimal128(10, 4), pa.decimal128(12, 4)),
        (pa.decimal128(10, 2), pa.int32(), pa.decimal128(12, 2)),
        (pa.uint64(), pa.decimal128(10, 2), pa.decimal128(22, 2)),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.uint64(), pa.float32(), pa.float64()),
    ],
)
def test_types_that_have_a_common_one_are_unified(tmp_path, one, other, wanted):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([1], pa.int8()).cast(one)}))
    put(tmp_path / "f" / "b.parquet", pa.table({"n": pa.array([2], pa.int8()).cast(other)}))
    found = open_manifest(str(tmp_path / "f")).read(["n"])["n"]
    assert (found.type, [int(value) for value in found.to_pylist()]) == (wanted, [1, 2])


@pytest.mark.parametrize(
    ("one", "value", "other"),
    [(pa.int64(), BIG, pa.float64()), (pa.uint64(), BIG, pa.float32()), (pa.uint64(), 2**63, pa.int64())],
)
def test_values_beyond_the_common_type_are_refused_with_types_and_files(tmp_path, one, value, other):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([value], one)}))
    put(tmp_path / "f" / "b.parquet", pa.table({"n": pa.array([1], other)}))
    with pytest.raises(InputError) as caught:
        open_manifest(str(tmp_path / "f")).read(["n"])
    assert f"it has {one} in a.parquet and {other} in b.parquet" in str(caught.value)
    assert "write it with one type in all files" in str(caught.value)
    assert "export it again" not in str(caught.value)


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


@pytest.mark.parametrize("nested", [False, True])
def test_names_of_columns_that_are_not_utf_8_are_refused_with_their_file(tmp_path, nested):
    name = pa.field(b"caf\xe9", pa.int64())
    schema = pa.schema([pa.field("s", pa.struct([name])) if nested else name])
    put(tmp_path / "f" / "a.parquet")
    put(tmp_path / "f" / "b.parquet", pa.Table.from_arrays([pa.nulls(1, schema.types[0])], schema=schema))
    message = refused(tmp_path / "f")
    assert "b.parquet has a column whose name is not UTF-8" in message
    assert "caf\\xe9" in message
    assert "the file has a column whose name is not UTF-8" in refused(tmp_path / "f" / "b.parquet")


def test_links_in_hidden_folders_do_not_hide_what_they_lead_to(tmp_path):
    put(tmp_path / "f" / "data" / "deep" / "a.parquet")
    for hidden in (".cache", "_old"):
        (tmp_path / "f" / hidden).mkdir()
        (tmp_path / "f" / hidden / "data").symlink_to("../data")
        (tmp_path / "f" / hidden / "deep").symlink_to("../data/deep")
    manifest = open_manifest(str(tmp_path / "f"))
    assert (manifest.rows, manifest.notes) == (24, ())


def test_each_file_is_read_once_however_many_links_lead_to_it(tmp_path):
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
def test_files_without_a_column_that_others_have_get_the_value_of_their_path(tmp_path, kind, values):
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
