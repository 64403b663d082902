"""Names from users are printed literally: no markup, emoji codes or control characters, in any encoding."""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress
from rich.table import Table
from rich.text import Text

import cluster
import rainbow_ray
import tune_spaces
from rainbow_ray.utils.console import is_live, make_console, show_activity, text_column
from rainbow_ray.utils.streams import ERRORS, printable, protect_streams, replace_unencodable

NAMES = [
    "[verse]",
    "[/chorus]",
    "[bold]loud[/bold]",
    "[[x]]",
    "[link=http://x]y[/link]",
    ":door:",
    "[",
    "]",
    "\\[a]",
    "{0}",
]
PACKAGES = [Path(package.__file__).parent for package in (rainbow_ray, cluster, tune_spaces)]


def printed(*renderables, **options) -> str:
    file = io.StringIO()
    console = make_console(file)
    for renderable in renderables:
        console.print(renderable, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name):
    assert printed(f"songs {name} final") == f"songs {name} final\n"
    assert printed(f"songs {name} final", style="bold") == f"songs {name} final\n"
    assert printed(Text.assemble(("✓", "green"), f" data: {name}")) == f"✓ data: {name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_names_are_kept_in_titles_headers_and_cells(name):
    table = Table(title=f"title {name}", caption=f"caption {name}")
    table.add_column(f"column {name}", footer=f"footer {name}")
    table.add_row(f"cell {name}")
    table.show_footer = True
    text = printed(table, soft_wrap=False)
    for part in ("title", "caption", "column", "footer", "cell"):
        assert f"{part} {name}" in text


@pytest.mark.parametrize("name", NAMES)
def test_names_are_kept_in_progress_bars(name):
    console = make_console(file := io.StringIO())
    with Progress(
        text_column("{task.description}"), BarColumn(), text_column("{task.fields[note]}"), console=console
    ) as bar:
        bar.add_task(f"fold {name}", total=1, note=f"note {name}")
    assert f"fold {name}" in file.getvalue()
    assert f"note {name}" in file.getvalue()


def test_control_characters_in_names_are_escaped():
    name = "\x1b[31mred\x07\x08\r\x9b2J\x7f"
    assert printable(name) == r"\x1b[31mred\x07\x08\x0d\x9b2J\x7f"
    assert printable("two\nlines\tand a tab, é, 曲, 🎵") == "two\nlines\tand a tab, é, 曲, 🎵"
    assert printed(f"a {name}") == f"a {printable(name)}\n"
    table = Table(title=name)
    table.add_column("label")
    table.add_row(name)
    assert "\x1b" not in printed(table, soft_wrap=False)


def test_a_pipe_is_never_live(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    assert not is_live(make_console(io.StringIO()))


def encoded(text: str, encoding: str) -> str:
    """Return the text that a stream of an encoding writes."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding, errors=ERRORS, write_through=True)
    stream.write(text)
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "koi8-r", "utf-8", "utf-16"])
def test_characters_that_an_encoding_lacks_are_replaced(monkeypatch, encoding):
    protect_streams()
    assert "songs of" in encoded("✓ songs of Björk, 曲, \udcff: 0.78–0.89 …", encoding)
    assert encoded("✓ 0.78–0.89 × 2 …", "ascii") == "+ 0.78-0.89 x 2 ..."
    assert encoded("曲 \udcff", encoding)[-2:] == " ?"
    with pytest.raises(UnicodeDecodeError):
        replace_unencodable(UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_tables_are_drawn_in_ascii_if_the_encoding_lacks_boxes(encoding):
    protect_streams()
    buffer = io.BytesIO()
    console = make_console(io.TextIOWrapper(buffer, encoding, errors=ERRORS, write_through=True))
    table = Table(title="has_markers: 84 examples")
    table.add_column("class – Björk")
    table.add_row("[verse] 曲", style="bold")
    console.print(table, soft_wrap=False)
    lines = buffer.getvalue().decode(encoding).splitlines()
    assert any(line.startswith("+--") for line in lines)
    assert any("[verse] ?" in line for line in lines)


def test_streams_without_an_encoding_are_not_changed(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    protect_streams()
    assert sys.stdout is None
    assert sys.stderr is stream
    assert stream.errors is None


def calls_of(tree: ast.AST):
    """Yield the name, the keyword arguments and the line of each call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            yield name, {keyword.arg for keyword in node.keywords}, node.lineno


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_only_one_module_makes_consoles(package):
    """Other consoles would interpret names as markup, or fail on the encoding."""
    violations = []
    for path in sorted(package.rglob("*.py")):
        if path.match("rainbow_ray/utils/console.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        violations += [
            f"{path}:{line}: {name}"
            for name, keywords, line in calls_of(tree)
            if name in {"Console", "TextColumn", "from_markup", "render_markup", "RichHandler", "get_console", "rule"}
            or "markup" in keywords
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in (
                "rich",
                "rich.markup",
                "rich.prompt",
                "rich.logging",
            ):
                violations.append(f"{path}:{node.lineno}: from {node.module}")
            if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "rich" for alias in node.names):
                violations.append(f"{path}:{node.lineno}: import rich")
    assert violations == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_errors_are_printed_by_one_function(package):
    """A plain `print("error: …")` would let control characters in a name reach the terminal."""
    modules = [path for path in package.rglob("*.py") if not path.is_relative_to(package / "pod")]
    assert [path.name for path in modules if 'print(f"error:' in path.read_text(encoding="utf-8")] in (
        [],
        ["streams.py"],
    )


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_activity_is_shown_on_terminals_alone(monkeypatch, is_terminal):
    monkeypatch.setattr("rainbow_ray.utils.console.is_live", lambda console: is_terminal)
    file = io.StringIO()
    with show_activity(Console(file=file, force_terminal=is_terminal, width=80), "intervals"):
        pass
    assert ("intervals" in file.getvalue()) == is_terminal
