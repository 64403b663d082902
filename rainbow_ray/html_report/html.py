"""Elements of a page, and their rendering as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.html_report.theme import Chart
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.number_format import format_interval, format_number

if TYPE_CHECKING:
    from rainbow_ray.html_report.timelines import Timelines


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Column headings.
        rows: Cells by row.
        caption: Caption above the table, or "".
        strong: Index of the emphasized row, or None.
    """

    head: list[str]
    rows: list[list[str]]
    caption: str = ""
    strong: int | None = None


@dataclass(frozen=True)
class TextSpan:
    """A piece of a text.

    Attributes:
        text: The piece.
        effect: Effect of this word on the score, 0 for unmarked text.
    """

    text: str
    effect: float = 0.0


@dataclass(frozen=True)
class LabelIssue:
    """An example whose prediction contradicts its label.

    Attributes:
        name: Name of the song or segment.
        claim: Its label and its prediction.
        spans: Its text, with the words that affected the score marked.
        words: The effects of these words, or "".
    """

    name: str
    claim: str
    spans: list[TextSpan]
    words: str = ""


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        name: Id of the section.
        title: Heading.
        text: Paragraphs.
        tables: Tables.
        charts: Charts, which are saved as PNG as well.
        issues: Examples whose prediction contradicts their label.
        code: Text in a folded code block, or "".
        timelines: Timelines of songs, or None.
        plots: Charts that are saved as PNG only.
    """

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    issues: list[LabelIssue] = field(default_factory=list)
    code: str = ""
    timelines: Timelines | None = None
    plots: list[Chart] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        kind: Line above the title.
        title: Title.
        verdict: Main result, in a sentence.
        sections: Sections in their order.
        footer: Line at the end.
        warnings: Warnings below the verdict.
    """

    kind: str
    title: str
    verdict: str
    sections: list[Section]
    footer: str
    warnings: list[str] = field(default_factory=list)


def write_page(page: Page, path: Path, plots: Path | None = None) -> None:
    """Write a page, and its charts as PNG.

    Args:
        page: The page.
        path: HTML file to write.
        plots: Folder of the PNG files; None to write none.
    """
    html = render(page)
    atomic_write(path, lambda file: file.write_text(html, encoding="utf-8"))
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for section in page.sections:
            for chart in [*section.charts, *section.plots]:
                chart.save(plots)


def render(page: Page) -> str:
    """Render a page.

    Args:
        page: The page. All texts in it are escaped.

    Returns:
        HTML that needs no other file and runs no script.
    """
    from jinja2 import Environment

    package = files("rainbow_ray.html_report")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((package / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(page=page, style=(package / "style.css").read_text(encoding="utf-8"))


def number(value: float | None, decimals: int = 3) -> str:
    """Format a number for a table.

    Args:
        value: The number, or None.
        decimals: Number of decimals.

    Returns:
        The text; a dash for None.
    """
    return format_number(value, decimals)


def interval(pair: Sequence[float] | None) -> str:
    """Format an interval for a table.

    Args:
        pair: Low and high end, or None.

    Returns:
        The text; a dash for None.
    """
    return format_interval(pair, separator=" to ")
