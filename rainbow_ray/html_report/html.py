"""What a page is made of, and how it becomes one file that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rainbow_ray.html_report.theme import Chart
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.number_format import format_interval, format_number

if TYPE_CHECKING:
    from rainbow_ray.html_report.timelines import Timelines


@dataclass(frozen=True)
class Table:
    """`strong` is the row that is meant."""

    head: list[str]
    rows: list[list[str]]
    caption: str = ""
    strong: int | None = None


@dataclass(frozen=True)
class HtmlBlock:
    """A piece of a text, and how far it moved the model (0: not at all)."""

    text: str
    by: float = 0.0


@dataclass(frozen=True)
class Song:
    """A song to look at: what it is said to be, and its text with the words that moved the model."""

    name: str
    claim: str
    parts: list[HtmlBlock]
    words: str = ""


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    songs: list[Song] = field(default_factory=list)
    code: str = ""
    timelines: Timelines | None = None
    plots: list[Chart] = field(default_factory=list)  # that are saved as PNG, where the page draws them otherwise


@dataclass(frozen=True)
class Page:
    kind: str
    title: str
    verdict: str
    sections: list[Section]
    footer: str
    warnings: list[str] = field(default_factory=list)


def write_page(page: Page, path: Path, plots: Path | None = None) -> None:
    """Write the page, and its charts as PNG into `plots`."""
    html = render(page)
    atomic_write(path, lambda file: file.write_text(html, encoding="utf-8"))
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for section in page.sections:
            for chart in [*section.charts, *section.plots]:
                chart.save(plots)


def render(page: Page) -> str:
    """The page as HTML; everything but charts and style is escaped."""
    from jinja2 import Environment

    here = files("rainbow_ray.html_report")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(page=page, style=(here / "style.css").read_text(encoding="utf-8"))


def number(value: Any, places: int = 3) -> str:
    """A number as tables show it; a dash where there is none."""
    return format_number(value, places)


def interval(pair: Any) -> str:
    return format_interval(pair, separator=" to ")
