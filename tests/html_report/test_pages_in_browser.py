"""Pages in a real browser: no errors, no requests, nothing wider than the screen, every text readable.

The tests need Chromium or Chrome (`make browser`) and are skipped without one.
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

MIN_CONTRAST = 4.5  # WCAG 2.2, 1.4.3: contrast of text that is not large
MIN_TEXT_SIZE = 9.0  # pixels of text, also in charts

# the contrast of each text with its background (WCAG 2.2, relative luminance); texts of charts have a fill
CONTRASTS = """() => {
  const parse = colour => colour.match(/[0-9.]+/g).map(Number);
  const light = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const background = element => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const element = node.parentElement;
    if (!node.textContent.trim() || ['STYLE', 'title'].includes(element.tagName) || element.closest('defs')) continue;
    const style = getComputedStyle(element);
    const inChart = element.closest('svg') !== null;
    const [a, b] = [parse(inChart ? style.fill : style.color), background(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const matrix = inChart ? element.getScreenCTM() : { a: 1, b: 0 };
    const size = parseFloat(style.fontSize) * Math.hypot(matrix.a, matrix.b);
    texts.push({ text: node.textContent.trim().slice(0, 40), contrast, size, inChart });
  }
  return texts;
}"""

CHARTS = "[...document.querySelectorAll('figure svg')].map(chart => chart.getBoundingClientRect().width)"


def measure_page(browser: Any, path: Path, width: int, scheme: str) -> dict[str, Any]:
    """Load a page at a width in pixels; return its messages, requests and measurements."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    measurements = {
        "messages": messages,
        "requests": [url for url in requests if url != path.as_uri()],
        "width": tab.evaluate("document.documentElement.scrollWidth"),
        "texts": tab.evaluate(CONTRASTS),
        "verdict_bottom": tab.evaluate("document.querySelector('.verdict').getBoundingClientRect().bottom"),
        "charts": tab.evaluate(CHARTS),
    }
    tab.close()
    return measurements


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
def test_a_page_has_no_errors_fits_the_screen_and_is_readable(browser, page, width, scheme):
    measurements = measure_page(browser, page, width, scheme)
    assert measurements["messages"] == []
    assert measurements["requests"] == []
    assert measurements["width"] <= width, "nothing but tables and charts may scroll sideways"
    assert measurements["verdict_bottom"] < 900, "the verdict is visible without scrolling"
    assert measurements["charts"]
    assert min(measurements["charts"]) > 180
    assert any(text["inChart"] for text in measurements["texts"])
    faint = [text for text in measurements["texts"] if text["contrast"] < MIN_CONTRAST]
    assert not faint
    small = [text for text in measurements["texts"] if text["size"] < MIN_TEXT_SIZE]
    assert not small


def test_each_fault_of_a_page_is_detected(browser, finished, tmp_path):
    """The checks above detect each fault."""
    page = (finished("binary") / "report.html").read_text()
    main_end, wide = "</main>", '<p style="width:3000px;max-width:none">x</p></main>'
    script, image = "<script>console.log(1)</script></main>", '<img src="http://127.0.0.1:9/x.png"></main>'

    def contrast(measurements: dict[str, Any]) -> float:
        return min(text["contrast"] for text in measurements["texts"])

    for fault, faulty_page, is_detected in (
        ("script", page.replace(main_end, script), lambda measurements: measurements["messages"]),
        ("picture", page.replace(main_end, image), lambda measurements: measurements["messages"]),
        ("wide", page.replace(main_end, wide), lambda measurements: measurements["width"] > 1400),
        (
            "faint",
            page.replace("--soft: #565b6b", "--soft: #b0b4c0"),
            lambda measurements: contrast(measurements) < MIN_CONTRAST,
        ),
    ):
        assert faulty_page != page, fault
        (tmp_path / f"{fault}.html").write_text(faulty_page)
        assert is_detected(measure_page(browser, tmp_path / f"{fault}.html", 1400, "light")), fault
