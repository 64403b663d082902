"""Write the screenshots of the documentation from real runs: `python docs/screenshots.py`.

The script trains phase 1 and runs a sweep of four trials on the built-in demo songs, unless `--runs` names a folder
that holds both (`one` and `sweep`), and photographs their reports with Chromium (`make browser`).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1100, 900  # CSS pixels
# image: (run, CSS selector of the first element that is shown, height in CSS pixels)
SHOTS = {
    "report.png": ("one", "body", HEIGHT),
    "label_issues.png": ("one", "#label-issues", 700),
    "sweep.png": ("sweep", "body", HEIGHT),
}


def main() -> None:
    """Train if needed, then write every image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="folder with the runs `one` and `sweep`")
    options = parser.parse_args()
    runs = options.runs or Path(tempfile.mkdtemp())
    if options.runs is None:
        common = ["--phase", "1", "--output-dir", str(runs)]
        for command in (["train", *common, "--name", "one"], ["tune", *common, "--trials", "4", "--name", "sweep"]):
            subprocess.run([sys.executable, "-m", f"rainbow_ray.{command[0]}", *command[1:]], check=True)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        sys.exit("no Chromium or Chrome: make browser")
    IMAGES.mkdir(exist_ok=True)
    take(runs, browser)


def take(runs: Path, executable: str) -> None:
    """Photograph the reports of the runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for image, (run, selector, height) in SHOTS.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme="light")
            page.goto((runs / run / "report.html").resolve().as_uri())
            top = page.locator(selector).first.bounding_box()
            assert top is not None, f"{run}: nothing matches {selector}"
            area = {"x": 0, "y": top["y"], "width": WIDTH, "height": height}
            page.screenshot(path=IMAGES / image, clip=area, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
