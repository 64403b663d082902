"""`report.html`: one self-contained page of a run or of a sweep."""

from __future__ import annotations

from pathlib import Path

FILE = "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` and `plots/` of a finished run or sweep.

    Args:
        folder: Folder of the run or sweep.

    Returns:
        Path of the page.

    Raises:
        InputError: The run has not finished, or files are missing or damaged.
    """
    # matplotlib and pandas are imported only when a page is written
    from rainbow_ray.html_report.html import write_page

    path = folder / FILE
    if (folder / "trials.jsonl").exists():
        from rainbow_ray.html_report.sweep_page import read_sweep, sweep_page

        write_page(sweep_page(read_sweep(folder)), path, folder / "plots")
        return path

    from rainbow_ray.html_report.run_artifacts import read_run
    from rainbow_ray.html_report.run_page import run_page
    from rainbow_ray.html_report.texts import load_texts, make_explainer

    run = read_run(folder)
    write_page(run_page(run, load_texts(run), make_explainer(run)), path, folder / "plots")
    return path
