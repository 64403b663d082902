"""Tables of parquet files: one type per column, and errors that name the file and the column."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from rainbow_ray.data.manifest import RowGroup, open_manifest
from rainbow_ray.data.read_errors import explain_read_error
from rainbow_ray.data.reader import _task_groups, read_sample
from rainbow_ray.utils.errors import InputError
from tests.data.parquet_files import damage, put, refused
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows

CONTENTS = [
    (b"<!DOCTYPE html><html>", "a web page"), (b"\n <?xml version='1.0'?>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"), (b"id,concept\n1,a\n", "a text file"),
    ("\ufeffid;concept\n1;ä\n".encode(), "a text file"), (b"\x1f\x8b\x08\x00aaaa", "a gzip file"),
    (b"PK\x03\x04aaaa", "a zip"), (b"ARROW1\x00\x00", "an Arrow"), (b"PAR1", "not a complete parquet"),
    (b"\x00" * 64, "not a complete parquet"),
    (b"PARE" + b"\x00" * 40 + b"PARE", "an encrypted"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), CONTENTS)
def test_files_that_are_not_parquet_are_named_with_their_format(tmp_path, content, words):
    put(tmp_path / "f" / "a.parquet")
    (tmp_path / "f" / "b.parquet").write_bytes(content)
    (tmp_path / "f" / "c.parquet").write_bytes(content)
    message = refused(tmp_path / "f")
    assert "b.parquet" in message
    assert "c.parquet" in message
    assert words in message
    assert words in refused(tmp_path / "f" / "b.parquet")


def test_columns_whose_types_differ_are_named_with_their_files(tmp_path):
    table = pa.table(song_rows(24, 1))
    put(tmp_path / "f" / "a.parquet", table)
    put(tmp_path / "f" / "b.parquet", table.set_column(1, "track_id", pa.array(["x"] * 24)).drop_columns(["album"]))
    message = refused(tmp_path / "f")
    assert "column 'track_id' holds int64 in a.parquet and string in b.parquet" in message
    with_duplicate = pa.Table.from_arrays([*table.columns, table["album"]], names=[*table.column_names, "id"])
    put(tmp_path / "f" / "b.parquet", with_duplicate)
    assert "b.parquet has column 'id' twice" in refused(tmp_path / "f")
    assert "the file has column 'id' twice" in refused(tmp_path / "f" / "b.parquet")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.string_view(), pa.string(), pa.string()),
        (pa.string(), pa.null(), pa.string()),
        (pa.binary_view(), pa.binary(), pa.binary()),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string()), pa.string()),
    ],
)
def test_string_encodings_are_unified_to_one_type(tmp_path, first, second, expected):
    for name, kind in (("a", first), ("b", second)):
        values = [None] if pa.types.is_null(kind) else [b"x" if "binary" in str(kind) else "x"]
        column = (
            pa.array(values).dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else pa.array(values, kind)
        )
        put(tmp_path / "f" / f"{name}.parquet", pa.table({"c": column}))
    manifest = open_manifest(str(tmp_path / "f"))
    assert manifest.read(["c"]).schema.field("c").type == expected
    assert manifest.read(["c"])["c"].to_pylist()[0] in ("x", b"x")


def test_struct_fields_that_a_file_lacks_are_null(tmp_path):
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
    encryption = pe.EncryptionConfiguration(
        footer_key="k", column_keys={"k2": columns}, plaintext_footer=plaintext_footer
    )
    properties = pe.CryptoFactory(Kms).file_encryption_properties(pe.KmsConnectionConfig(), encryption)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_encrypted_columns_are_named(tmp_path):
    path = tmp_path / "songs.parquet"
    encrypt(path, ["concept", "id"], plaintext_footer=True)
    with pytest.raises(InputError) as error:
        data_of(plan_of(path))
    assert len(error.value.problems) == 2
    for message, name in zip(error.value.problems, ("id", "concept"), strict=True):
        assert f"column {name!r} cannot be read: it is encrypted" in message
    encrypt(path, ["album"], plaintext_footer=True)  # which is not read
    assert data_of(plan_of(path)).profile["songs"] == 24
    encrypt(path, ["concept"], plaintext_footer=False)
    assert "an encrypted parquet file" in refused(path)


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


def test_page_checksums_are_verified(tmp_path):
    path = put(tmp_path / "a.parquet", compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"number aaa", b"number aab", 1))
    with pytest.raises(InputError, match="column 'concept' cannot be read"):
        open_manifest(str(path)).read(["concept"])


def test_deleted_and_unopenable_files_are_refused(tmp_path):
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
            numbers = [n for batch in manifest.batches(group, ["n"], size) for n in batch["n"].to_pylist()]
            assert numbers == list(range(group.start, group.start + group.rows))
    assert len(read_sample(manifest, ["n"], 10)) >= 10


def test_columns_may_have_any_name(tmp_path):
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
    """An error with a status and a message that contains the address, like that of aiohttp."""

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
def test_a_status_is_not_read_from_the_digits_of_an_address(error, words):
    assert words in explain_read_error(error, remote=True)


BIG = 2**53 + 1


FLOATS = [pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", [pa.decimal128(20, 0), pa.int64(), pa.uint64(), pa.float32(), pa.string()])
@pytest.mark.parametrize("empty_type", [*FLOATS, pa.list_(pa.float64())])
@pytest.mark.parametrize("is_empty_first", [True, False])
def test_files_without_rows_do_not_determine_a_type(tmp_path, kind, empty_type, is_empty_first):
    values = ["a", "b"] if pa.types.is_string(kind) else [0.5, 1.5] if pa.types.is_floating(kind) else [BIG, BIG + 1]
    table = pa.table({"n": pa.array(values, pa.float64() if pa.types.is_floating(kind) else kind)})
    put(tmp_path / "f" / f"{'a' if is_empty_first else 'c'}.parquet", pa.table({"n": pa.array([], empty_type)}))
    put(tmp_path / "f" / "b.parquet", table)
    assert open_manifest(str(tmp_path / "f")).read(["n"]).equals(table)


def test_a_column_only_in_files_without_rows_has_their_type(tmp_path):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([], pa.int8()), "x": pa.array([], pa.string())}))
    put(tmp_path / "f" / "b.parquet", pa.table({"x": ["y"]}))
    assert open_manifest(str(tmp_path / "f")).read().to_pydict() == {"n": [None], "x": ["y"]}


@pytest.mark.parametrize("wrap", [lambda kind: kind, pa.list_, lambda kind: pa.struct([("x", kind)])])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.decimal128(20, 0), pa.float64()),
        (pa.decimal128(10, 2), pa.float32()),
        (pa.decimal256(50, 2), pa.float64()),
        (pa.float32(), pa.float64()),
    ],
)
def test_types_whose_values_would_be_rounded_are_refused(tmp_path, first, second, wrap):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([None], wrap(first))}))
    put(tmp_path / "f" / "b.parquet", pa.table({"n": pa.array([None], wrap(second))}))
    message = refused(tmp_path / "f")
    stored = [pq.read_schema(tmp_path / "f" / name).types[0] for name in ("a.parquet", "b.parquet")]
    assert f"column 'n' holds {stored[0]} in a.parquet and {stored[1]} in b.parquet" in message
    assert "write it with one type in all files" in message


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.decimal128(10, 2), pa.decimal128(10, 4), pa.decimal128(12, 4)),
        (pa.decimal128(10, 2), pa.int32(), pa.decimal128(12, 2)),
        (pa.uint64(), pa.decimal128(10, 2), pa.decimal128(22, 2)),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.uint64(), pa.float32(), pa.float64()),
    ],
)
def test_types_with_a_common_type_are_unified(tmp_path, first, second, expected):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([1], pa.int8()).cast(first)}))
    put(tmp_path / "f" / "b.parquet", pa.table({"n": pa.array([2], pa.int8()).cast(second)}))
    column = open_manifest(str(tmp_path / "f")).read(["n"])["n"]
    assert (column.type, [int(value) for value in column.to_pylist()]) == (expected, [1, 2])


@pytest.mark.parametrize(
    ("first", "value", "second"),
    [(pa.int64(), BIG, pa.float64()), (pa.uint64(), BIG, pa.float32()), (pa.uint64(), 2**63, pa.int64())],
)
def test_values_beyond_the_common_type_are_refused_with_types_and_files(tmp_path, first, value, second):
    put(tmp_path / "f" / "a.parquet", pa.table({"n": pa.array([value], first)}))
    put(tmp_path / "f" / "b.parquet", pa.table({"n": pa.array([1], second)}))
    with pytest.raises(InputError) as error:
        open_manifest(str(tmp_path / "f")).read(["n"])
    assert f"it has {first} in a.parquet and {second} in b.parquet" in str(error.value)
    assert "write it with one type in all files" in str(error.value)
    assert "export it again" not in str(error.value)


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
