"""The model card of a bundle: what it is, what it was trained on, how good it is, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rainbow_ray.results.pages.layout import interval, number

FEW_SONGS = 500
WEAK = ("Labels of segments were never seen: what is said of a segment is its share in its song's label, and is WEAK"
        " wherever it stands.")  # fmt: skip


def write_card(summary: Mapping[str, Any], info: Mapping[str, Any], members: int) -> str:
    """`README.md` of a bundle, from a run's `summary.json` and what the bundle knows of itself."""
    kind = f"phase {summary['phase']}, {summary['problem']}"
    sections = [
        f"# {summary['target']} ({kind})\n\n{summary['verdict']}",
        _trained_on(summary, info, members),
        _numbers(summary),
        _limits(summary, info),
        _use(info),
    ]
    return "\n\n".join(sections) + "\n"


def _trained_on(summary: Mapping[str, Any], info: Mapping[str, Any], members: int) -> str:
    counts = summary["counts"]
    folds = counts["folds"]
    split = f"{folds} folds, songs kept whole" if folds > 1 else "one split, songs kept whole"
    kept = f"an ensemble of the {members} models of the folds" if members else "one model"
    if not members and folds > 1:
        kept += ", trained once more on all songs"
    rows = {
        "songs": info["trained_on_songs"],
        "target": f"`{info['target']}`",
        "read": ", ".join(f"`{name}`" for name in [*info["text_columns"], *info["media_columns"]]) or "–",
        "encoder": f"`{info['encoder']}`" if info["encoder"] else "–",
        "what this is": kept,
        "measured on": split,
        "left out": ", ".join(f"{n} {reason}" for reason, n in counts["dropped"].items()) or "nothing",
        "data": f"hash `{info['data_hash']}`" + (" (the built-in demo songs)" if summary["demo"] else ""),
        "precision": _precision(summary),
        "config": f"hash `{info['config_hash']}`",
    }
    return "## What it was trained on\n\n| | |\n| --- | --- |\n" + "\n".join(
        f"| {name} | {_cell(value)} |" for name, value in rows.items()
    )


def _numbers(summary: Mapping[str, Any]) -> str:
    names = [name for name, value in summary["best"].items() if name != "epoch" and value is not None]
    names = [summary["metric"], *(name for name in names if name != summary["metric"])][:8]
    head = f"| | {' | '.join(name.replace('_', ' ') for name in names)} |"
    rows = [["model", *(number(summary["best"].get(name)) for name in names)],
            ["95% interval", *(interval(summary["ci95"].get(name)) for name in names)]]  # fmt: skip
    rows += [[name, *(number(values.get(metric)) for metric in names)] for name, values in summary["baselines"].items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    how = "Each song was scored by a model that never saw it; intervals draw songs. Baselines stand on the same songs."
    return f"## How good it is\n\n{how}\n\n{head}\n|{' --- |' * (len(names) + 1)}\n{table}"


def _limits(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    songs = info["trained_on_songs"]
    said = [f"- Trained on {songs} songs" + (": few, so the intervals above are wide." if songs < FEW_SONGS else "."),
            f"- Texts are read up to {info['max_tokens']} tokens; what follows is not seen by the encoder.",
            "- Labels of songs unlike these (another author, language, way of labelling) were not tried."]  # fmt: skip
    said += [f"- {note}" for note in [*summary["signs"], *summary["notes"]]]
    if summary.get("weak"):
        said.append(f"- {WEAK}")
    return "## Limits\n\n" + "\n".join(said)


def _use(info: Mapping[str, Any]) -> str:
    segments = "times" in info
    call = 'model.predict_segments(pd.read_parquet("segments.parquet"))' if segments else 'model.predict(["a text"])'
    imports = "import pandas as pd\n\nimport rainbow_ray\n" if segments else "import rainbow_ray\n"
    return (
        "## How to load it\n\n```python\n"
        f'{imports}\nmodel = rainbow_ray.load("this/folder")\n{call}\n```\n\n'
        'or `python -m rainbow_ray.predict --model this/folder --text "…"`. Loading needs no network and runs no code'
        " from this folder."
    )


def _precision(summary: Mapping[str, Any]) -> str:
    if summary["precision"] == "fp32":
        return "fp32, in training and here"
    return f"trained and measured in {summary['precision']}; here fp32, whose scores differ by some thousandths"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
