"""Matplotlib figures in the page's colors: one drawing for the light and the dark theme.

For the page a figure is drawn in placeholder colors, which become CSS variables in its SVG. A PNG is drawn in the
colors of the light theme.
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
    """Colors by role, as hexadecimal codes.

    Attributes:
        ink: Text.
        faint: Axes, grids and reference lines.
        first: First series.
        second: Second series.
        third: Third series.
        paper: Background.
    """

    ink: str
    faint: str
    first: str
    second: str
    third: str
    paper: str


# codes that a figure does not contain by chance; the names of the roles are the page's CSS variables
PLACEHOLDERS = Palette(
    ink="#010203", faint="#020304", first="#030405", second="#040506", third="#050607", paper="#060708"
)
LIGHT = Palette(ink="#1c1e26", faint="#c9ccd6", first="#2f5fd0", second="#b4520a", third="#2b7a4b", paper="#ffffff")

Draw = Callable[[Figure, Palette], None]


@dataclass(frozen=True)
class Chart:
    """A figure that can be drawn in any palette.

    Attributes:
        name: Name of the file, and prefix of ids in the SVG.
        title: Title above the figure.
        caption: Description of the figure, also for screen readers.
        draw: Draws the figure.
        size: Width and height in inches. Two charts of the default size fit side by side, and one on a phone.
    """

    name: str
    title: str
    caption: str
    draw: Draw
    size: tuple[float, float] = (4.6, 3.2)

    def svg(self) -> str:
        """Return the figure as inline SVG without a fixed size.

        Returns:
            An `svg` element whose colors are CSS variables.
        """
        with mpl.rc_context({**_style(PLACEHOLDERS), "svg.hashsalt": self.name}):
            buffer = io.StringIO()
            self._figure(PLACEHOLDERS).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)
        # matplotlib gives the groups of every figure the same ids (figure_1, axes_1, …)
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        for name, color in dataclasses.asdict(PLACEHOLDERS).items():
            svg = svg.replace(color, f"var(--{name})")
        return svg

    def save(self, folder: Path) -> Path:
        """Write the figure as PNG.

        Args:
            folder: Folder of the file.

        Returns:
            Path of the file.
        """
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
        "text.parse_math": False,  # names of classes are plain text
        "svg.fonttype": "none",
    }
