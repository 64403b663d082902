"""LRC files: time stamps of every form, encodings, and files that cannot be used."""

from __future__ import annotations

import os

import pytest

from rainbow_ray.data import encodings, lrc
from rainbow_ray.data.derive_segments import derive_segments
from rainbow_ray.data.encodings import UndecodableError, decode_text
from rainbow_ray.data.lrc import LrcLine, LyricsError, check_lrc, decode_lrc, parse_lines, parse_lrc, read_lrc
from rainbow_ray.data.song_structure import Segment

CHINESE = "你问我爱你有多深\n我爱你有几分\n我的情也真\n我的爱也真\n月亮代表我的心\n轻轻的一个吻"
JAPANESE = "さくらさくら\n野山も里も\n見渡す限り\n霞か雲か\n朝日に匂う\nさくらさくら"
KOREAN = "아리랑 아리랑 아라리요\n아리랑 고개로 넘어간다\n나를 버리고 가시는 님은"
RUSSIAN = "Расцветали яблони и груши\nПоплыли туманы над рекой\nВыходила на берег Катюша\nНа высокий берег на крутой"
GERMAN = "Über sieben Brücken mußt du gehn\nSieben dunkle Jahre überstehn\nSiebenmal wirst du die Asche sein"
FRENCH = "Sous les feuilles d'un chêne je me suis fait sécher\nÀ la claire fontaine m'en allant promener"
POLISH = "Łódź jest piękna, żółta i zielona\nGdzie są kwiaty z tamtych lat\nPieśń o miłości"
CZECH = "Kde domov můj\nVoda hučí po lučinách\nBory šumí po skalinách"
TURKISH = "Gülüşün şarkı gibi ışık\nSeni seviyorum, aşkım benim"
ROMANIAN = "Deşteaptă-te, române, din somnul cel de moarte\nÎn care te-adânciră barbarii de tirani"
GREEK = "Σ' αγαπώ πολύ\nΘάλασσα πλατιά σ' αγαπώ γιατί μου μοιάζεις"
THAI = "ลอยกระทง ลอยกระทง\nวันเพ็ญเดือนสิบสอง น้ำก็นองเต็มตลิ่ง"


def stamped(text):
    return "".join(f"[00:{5 * i:02d}.00]{line}\n" for i, line in enumerate(text.split("\n")))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[00:59:58.00]before\n[01:00:02.50]after", [(3598.0, "before"), (3602.5, "after")]),
        ("[00:59:58]before\n[01:00:02]after", [(3598, "before"), (3602, "after")]),
        ("[59:58.00]before\n[1:00:02]after", [(3598, "before"), (3602, "after")]),
        ("[00:12:50]a\n[00:17:20]b\n[00:21:75]c", [(12.5, "a"), (17.2, "b"), (21.75, "c")]),
        ("[00:12,500]a\n[00:17,20]b", [(12.5, "a"), (17.2, "b")]),
        ("[75:20.00]minutes go on", [(4520, "minutes go on")]),
        ("[00:01.00]a\r\n[00:02.00]b\r[00:03.00]c\n", [(1, "a"), (2, "b"), (3, "c")]),
        ("\ufeff[00:01.00]a".replace("\ufeff", ""), [(1, "a")]),
        ("  [00:01.00] [00:09.00]  again", [(1, "again"), (9, "again")]),
        ("[00:01.00]a\n[00:01:02:12]frames\nno stamp [00:02.00]", [(1, "a")]),
        ("[00:02.00]<00:02.00>un<00:02.30>der<00:02.60>stand <00:03.00>me", [(2, "understand me")]),
        ("[00:02.00]<00:02.00>月<00:02.30>亮<00:02.60>代<00:03.00>表", [(2, "月亮代表")]),
        ("[00:02.00] <00:02.00> When <00:03.00> the", [(2, "When the")]),
        ("[offset:+500]\n[00:12.50]<00:12.50>first <00:13.10>words", [(12, "first words")]),
        ("[00:05.00] hello [00:06.00] world\n[00:09.25] feel [00:10.50] it", [(5, "hello world"), (9.25, "feel it")]),
        ("[00:01.10]Hello[00:06.13]\n[00:08.00]Next", [(1.1, "Hello"), (8, "Next")]),
        ("[00:01.00]meet me at [10:30] tonight\n[00:05.00]ok", [(1, "meet me at [10:30] tonight"), (5, "ok")]),
        ("[00:01]meet me at [10:30] tonight\n[00:05]ok", [(1, "meet me at [10:30] tonight"), (5, "ok")]),
        ("[00:01]word [00:02] by [00:03] word\n[00:05]ok", [(1, "word by word"), (5, "ok")]),
        ("[10:29.00]it is [10:30] now", [(629, "it is [10:30] now")]),
    ],
)
def test_only_stamps_at_the_start_of_a_line_begin_a_line(text, lines):
    assert parse_lrc(text) == lines


def test_a_stamp_after_the_words_ends_the_line():
    assert parse_lines("[00:01.00]a <00:02.00>b<00:03.50>\n[00:08.00]c[00:09.00]") == [
        LrcLine(1.0, "a b", 3.5), LrcLine(8.0, "c", 9.0)
    ]  # fmt: skip
    assert parse_lines("[offset:500]\n[00:01.00]a[00:03.50]")[0] == LrcLine(0.5, "a", 3.0)
    assert [line.end for line in parse_lines("[00:01.00][00:20.00]again[00:03.00]")] == [None, None]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("[00:05.00] hello [00:06.00] world\n[00:09.25] feel [00:10.50] the [00:11.75] rhythm",
         [(5, 9.25, "hello world"), (9.25, 14.25, "feel the rhythm")]),
        ("[00:01.10]Hello World[00:06.13]\n[00:08.00]Next", [(1.1, 6.13, "Hello World"), (8, 13, "Next")]),
        ("[00:01.00]meet me at [10:30] tonight\n[00:05.00]ok", [(1, 5, "meet me at [10:30] tonight"), (5, 10, "ok")]),
        ("[00:01.00]月亮\n[00:01.00]the moon\n[00:05.00]", [(1, 5, "月亮 the moon"), (5, 10, None)]),
    ],
)  # fmt: skip
def test_stamps_inside_lines_do_not_change_segments(text, segments):
    kind, derived = derive_segments(None, text, None, 10.0)
    assert kind == "lrc"
    assert derived == [Segment(start, end, words, None) for start, end, words in segments]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_with_and_without_a_byte_order_mark(encoding):
    text = stamped(CHINESE + "\nand plain words")
    assert decode_lrc(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(CHINESE, "gbk"), (CHINESE, "gb18030"), (JAPANESE, "shift_jis"), (KOREAN, "cp949"), (RUSSIAN, "cp1251"),
     (RUSSIAN, "koi8_r"), (GERMAN, "latin-1"), (THAI, "cp874"), ("月亮代表我的心\n" * 2, "gbk")],
)  # fmt: skip
def test_unambiguous_encodings_are_detected(text, encoding):
    assert decode_lrc(stamped(text).encode(encoding)) == stamped(text)


TEXTS = [
    *((CHINESE, encoding) for encoding in ("gbk", "big5hkscs")), (JAPANESE, "shift_jis"), (JAPANESE, "euc_jp"),
    (KOREAN, "cp949"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8_r"), (GERMAN, "cp1252"), (FRENCH, "cp1252"),
    (POLISH, "cp1250"), (CZECH, "cp1250"), (TURKISH, "cp1254"), (ROMANIAN, "cp1250"), (GREEK, "cp1253"),
    (THAI, "cp874"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_no_text_is_decoded_with_a_wrong_encoding(text, encoding):
    """Any range of lines of a text is decoded correctly or refused."""
    lines = text.split("\n")
    for first in range(len(lines)):
        for last in range(first + 1, len(lines) + 1):
            document = stamped("\n".join(lines[first:last]))
            try:
                raw = document.encode(encoding)
            except UnicodeEncodeError:
                continue
            try:
                decoded = decode_text(raw)
            except UndecodableError:
                continue
            assert decoded == document


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", lrc.EMPTY), (b" \r\n", lrc.EMPTY), (b"\xef\xbb\xbf", lrc.EMPTY),
        (b"<!DOCTYPE html><html>404 Not Found</html>", lrc.MARKUP), (b"<?xml version='1.0'?><a/>", lrc.MARKUP),
        (b"just words\nand more", lrc.NO_STAMPS), (b"[ar: someone]\n[ti: something]", lrc.NO_STAMPS),
        (b"[00:01:02:12]a\n[00:01:05:12]b", lrc.FRAME_STAMPS), (b"[offset: 90000]\n[00:01.00]a", lrc.OFFSET_BEYOND),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" * 20, encodings.BINARY), (b"[00:01.00]a\x00b\n", encodings.BINARY),
        ("[00:01.00]déjà vu".encode("latin-1"), encodings.UNSURE),
        ("[00:01.00]a".encode("utf-16")[:-1], "UTF-16-LE that is damaged or cut off"),
    ],
)  # fmt: skip
def test_bytes_that_are_not_lrc_are_refused_with_a_reason(data, reason):
    with pytest.raises(LyricsError) as error:
        decode_lrc(data)
    assert error.value.reason == reason


def test_zeros_after_the_text_are_ignored():
    assert parse_lrc(decode_lrc(b"[00:01.00]a\n" + b"\x00" * 500)) == [(1.0, "a")]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.lrc").write_text("[00:01.00]inside")
    (folder / "sub" / "b.lrc").write_text("[00:01.00]below")
    (tmp_path / "secret.lrc").write_text("[00:01.00]outside")
    (folder / "link.lrc").symlink_to(tmp_path / "secret.lrc")
    (folder / "inner.lrc").symlink_to(folder / "a.lrc")
    (folder / "café.lrc").write_text("[00:01.00]composed")
    return folder


@pytest.mark.parametrize("name", ["a.lrc", " a.lrc ", "sub/b.lrc", "sub\\b.lrc", "inner.lrc", "café.lrc",
                                  "cafe\u0301.lrc"])  # fmt: skip
def test_files_are_found_below_the_root(root, name):
    assert read_lrc(root, name).startswith("[00:01.00]")
    assert read_lrc(root, str(root / "a.lrc")) == "[00:01.00]inside"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.lrc", lrc.MISSING), ("../secret.lrc", lrc.OUTSIDE), ("sub/../../secret.lrc", lrc.OUTSIDE),
     ("..\\secret.lrc", lrc.OUTSIDE), ("link.lrc", lrc.OUTSIDE), ("/etc/hostname", lrc.OUTSIDE),
     ("/nowhere/a.lrc", lrc.OUTSIDE), ("sub", lrc.NOT_A_FILE), (".", lrc.NOT_A_FILE), ("a\x00.lrc", lrc.MISSING),
     ("a.lrc/b", lrc.MISSING), ("x" * 5000, "cannot be read (File name too long)")],
)  # fmt: skip
def test_unusable_files_are_refused_with_a_reason(root, name, reason):
    with pytest.raises(LyricsError) as error:
        read_lrc(root, name)
    assert error.value.reason == reason


def test_a_file_that_is_too_large_is_not_read(root):
    with (root / "large.lrc").open("wb") as file:
        file.truncate(lrc.MAX_BYTES + 1)
    with pytest.raises(LyricsError, match="larger than 10 MB"):
        read_lrc(root, "large.lrc")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_with_the_reason(root):
    (root / "a.lrc").chmod(0)
    with pytest.raises(LyricsError, match=r"cannot be read .*ermission"):
        read_lrc(root, "a.lrc")


def test_lines_with_equal_times_keep_the_order_of_the_file():
    assert parse_lrc("[00:10.00]Zebras run\n[00:10.00]A translation") == [(10, "Zebras run"), (10, "A translation")]
    shifted = "[offset:+5000]\n[00:03.00]alpha second\n[00:01.00]zulu first\n[00:10.00]x"
    assert parse_lrc(shifted) == [(0, "zulu first"), (0, "alpha second"), (5, "x")]


@pytest.mark.parametrize("offset", ["500", "+500", "500.0", " 500 ", "500ms", "500 ms"])
def test_offsets_are_milliseconds(offset):
    assert parse_lrc(f"[offset:{offset}]\n[00:01.00]a") == [(0.5, "a")]


@pytest.mark.parametrize("offset", ["9" * 400, "9" * 5000, "soon"])
def test_an_invalid_offset_is_refused(offset):
    with pytest.raises(LyricsError, match="offset"):
        check_lrc(f"[offset:{offset}]\n[00:01.00]a")


def test_a_line_with_frames_is_refused():
    with pytest.raises(LyricsError, match="frames"):
        check_lrc("[00:01.00]a\n[00:00:12:13]b\n[00:20.00]c")


def test_a_dos_code_page_is_not_decoded_as_a_windows_one():
    text = "[00:10.00]Où est passé l'été dernier, mon chéri\n[00:15.00]Je rêve à la forêt et aux îles lointaines\n"
    with pytest.raises(UndecodableError):
        decode_text(text.encode("cp850"))
