"""Pages in a real browser: no errors, no requests, nothing wider than the screen, every text readable.

Needs Chromium or Chrome (`make browser`), and is skipped where none is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rainbow_ray.html_report.comparison import comparison_page
from rainbow_ray.html_report.html import write_page
from rainbow_ray.html_report.run_artifacts import read_run
from rainbow_ray.html_report.write import write_report

pytestmark = pytest.mark.slow

READABLE = 4.5  # WCAG 2.2, 1.4.3: contrast of text that is not large
SMALLEST = 9.0  # pixels of a text, in charts too

# of each text its contrast with what it stands on (WCAG 2.2, relative luminance); charts' texts have a fill
CONTRASTS = """() => {
  const parse = colour => colour.match(/[0-9.]+/g).map(Number);
  const light = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const below = element => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const element = node.parentElement;
    if (!node.textContent.trim() || ['STYLE', 'title'].includes(element.tagName) || element.closest('defs')) continue;
    const style = getComputedStyle(element);
    const inChart = element.closest('svg') !== null;
    const [a, b] = [parse(inChart ? style.fill : style.color), below(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const matrix = inChart ? element.getScreenCTM() : { a: 1, b: 0 };
    const size = parseFloat(style.fontSize) * Math.hypot(matrix.a, matrix.b);
    found.push({ text: node.textContent.trim().slice(0, 40), contrast, size, inChart });
  }
  return found;
}"""

CHARTS = "[...document.querySelectorAll('figure svg')].map(chart => chart.getBoundingClientRect().width)"


def look(browser: Any, path: Path, width: int, scheme: str) -> dict[str, Any]:
    """What the browser says of a page at a width in pixels."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    found = {
        "said": said,
        "requests": [url for url in requests if url != path.as_uri()],
        "width": tab.evaluate("document.documentElement.scrollWidth"),
        "texts": tab.evaluate(CONTRASTS),
        "above": tab.evaluate("document.querySelector('.verdict').getBoundingClientRect().bottom"),
        "charts": tab.evaluate(CHARTS),
    }
    tab.close()
    return found


@pytest.fixture(
    params=[
        "binary",
        "multiclass",
        "multilabel",
        "regression",
        "segmentation",
        "segmentation of numbers",
        "weak segmentation",
        "sweep",
        "comparison",
    ]
)
def page(request, finished, swept, tmp_path) -> Path:
    if request.param == "sweep":
        return write_report(swept)
    if request.param == "comparison":
        run = read_run(finished("binary"))
        write_page(comparison_page([run, run, run]), tmp_path / "comparison.html")
        return tmp_path / "comparison.html"
    return finished(request.param) / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_page_is_quiet_fits_and_can_be_read(browser, page, width, scheme):
    found = look(browser, page, width, scheme)
    assert found["said"] == []
    assert found["requests"] == []
    assert found["width"] <= width, "nothing but tables and charts may scroll sideways"
    assert found["above"] < 900, "the verdict stands on the first screen"
    assert found["charts"]
    assert min(found["charts"]) > 180
    assert any(text["inChart"] for text in found["texts"])
    faint = [text for text in found["texts"] if text["contrast"] < READABLE]
    assert not faint
    small = [text for text in found["texts"] if text["size"] < SMALLEST]
    assert not small


def test_what_must_not_pass_does_not(browser, finished, tmp_path):
    """The looks above can fail: a page with each fault is seen to have it."""
    page = (finished("binary") / "report.html").read_text()
    end, wide = "</main>", '<p style="width:3000px;max-width:none">x</p></main>'
    script, picture = "<script>console.log(1)</script></main>", '<img src="http://127.0.0.1:9/x.png"></main>'

    def contrast(found: dict[str, Any]) -> float:
        return min(text["contrast"] for text in found["texts"])

    for fault, broken, seen in (
        ("script", page.replace(end, script), lambda found: found["said"]),
        ("picture", page.replace(end, picture), lambda found: found["said"]),
        ("wide", page.replace(end, wide), lambda found: found["width"] > 1400),
        ("faint", page.replace("--soft: #565b6b", "--soft: #b0b4c0"), lambda found: contrast(found) < READABLE),
    ):
        assert broken != page, fault
        (tmp_path / f"{fault}.html").write_text(broken)
        assert seen(look(browser, tmp_path / f"{fault}.html", 1400, "light")), fault
