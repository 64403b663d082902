"""Matplotlib figures that follow the page's colours: light and dark from one drawing.

For the page a figure is drawn in stand-in colours, which become CSS variables in its SVG; for a PNG in those of the
light theme.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from rainbow_ray.utils.io import atomic_write

DPI = 150


@dataclass(frozen=True)
class Palette:
    """Colours by what they are for."""

    ink: str
    faint: str
    first: str
    second: str
    third: str
    paper: str


# no stand-in occurs by chance; the names are the page's CSS variables
STAND_INS = Palette(ink="#010203", faint="#020304", first="#030405", second="#040506", third="#050607", paper="#060708")
LIGHT = Palette(ink="#1c1e26", faint="#c9ccd6", first="#2f5fd0", second="#b4520a", third="#2b7a4b", paper="#ffffff")

Draw = Callable[[Figure, Palette], None]


@dataclass(frozen=True)
class Chart:
    """A figure that can be drawn in any palette. `says` is what it shows, for those who cannot see it."""

    name: str
    title: str
    says: str
    draw: Draw
    size: tuple[float, float] = (4.6, 3.2)  # inches; two fit beside each other, and one on a phone

    def svg(self) -> str:
        """Inline SVG that scales with its place."""
        with mpl.rc_context({**_style(STAND_INS), "svg.hashsalt": self.name}):
            buffer = io.StringIO()
            self._figure(STAND_INS).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)
        # matplotlib names its groups (figure_1, axes_1, …) alike in each figure
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        for name, colour in dataclasses.asdict(STAND_INS).items():
            svg = svg.replace(colour, f"var(--{name})")
        return svg

    def save(self, folder: Path) -> Path:
        """A PNG in `folder`."""
        path = folder / f"{self.name}.png"
        with mpl.rc_context({**_style(LIGHT), "figure.facecolor": LIGHT.paper}):
            figure = self._figure(LIGHT)
            atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
        return path

    def _figure(self, palette: Palette) -> Figure:
        figure = Figure(figsize=self.size)
        self.draw(figure, palette)
        return figure


def _style(palette: Palette) -> Any:
    return {
        "font.size": 11,
        "font.family": "sans-serif",
        "text.color": palette.ink,
        "axes.labelcolor": palette.ink,
        "axes.edgecolor": palette.faint,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=[palette.first, palette.second, palette.third]),
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "figure.facecolor": "none",
        "figure.constrained_layout.use": True,
        "grid.color": palette.faint,
        "grid.linewidth": 0.6,
        "xtick.color": palette.ink,
        "ytick.color": palette.ink,
        "legend.frameon": False,
        "text.parse_math": False,  # classes may be called anything
        "svg.fonttype": "none",
    }
