"""`report.html`: one self-contained page of a run, of a sweep, or of several runs beside each other."""

from __future__ import annotations

from pathlib import Path

FILE = "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` and `plots/` of a finished run or sweep; where the page lies.

    Raises `InputError` for what is not finished, or lacks files (which).
    """
    from rainbow_ray.html_report.html import write_page

    out = folder / FILE
    if (folder / "trials.jsonl").exists():
        from rainbow_ray.html_report.sweep_page import read_sweep, sweep_page

        write_page(sweep_page(read_sweep(folder)), out, folder / "plots")
        return out

    from rainbow_ray.html_report.run_artifacts import read_run
    from rainbow_ray.html_report.run_page import run_page
    from rainbow_ray.html_report.texts import texts_of, words_of

    run = read_run(folder)
    write_page(run_page(run, texts_of(run), words_of(run)), out, folder / "plots")
    return out
