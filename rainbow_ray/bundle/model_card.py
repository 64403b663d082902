"""The model card of a bundle: what it is, what it was trained on, how good it is, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rainbow_ray.utils.number_format import format_interval, format_number

FEW_SONGS = 500
USE = "## How to load it"
WEAK = ("Labels of segments were never seen: what is said of a segment is its share in its song's label, and is WEAK"
        " wherever it stands.")  # fmt: skip


def write_card(summary: Mapping[str, Any], info: Mapping[str, Any], members: int) -> str:
    """`README.md` of a bundle, from a run's `summary.json` and what the bundle knows of itself."""
    kind = f"phase {summary['phase']}, {summary['task']}"
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
    names = [name for name, value in summary["metrics"].items() if name != "epoch" and value is not None]
    names = [summary["metric"], *(name for name in names if name != summary["metric"])][:8]
    head = f"| | {' | '.join(name.replace('_', ' ') for name in names)} |"
    rows = [["model", *(format_number(summary["metrics"].get(name)) for name in names)],
            ["95% interval", *(format_interval(summary["ci95"].get(n), separator=" to ") for n in names)]]  # fmt: skip
    rows += [
        [name, *(format_number(values.get(metric)) for metric in names)]
        for name, values in summary["baselines"].items()
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    how = "Each song was scored by a model that never saw it; intervals draw songs. Baselines stand on the same songs."
    return f"## How good it is\n\n{how}\n\n{head}\n|{' --- |' * (len(names) + 1)}\n{table}"


def _limits(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    songs = info["trained_on_songs"]
    said = [f"- Trained on {songs} songs" + (": few, so the intervals above are wide." if songs < FEW_SONGS else "."),
            *_token_limit(info),
            "- Labels of songs unlike these (another author, language, way of labelling) were not tried."]  # fmt: skip
    said += [f"- {note}" for note in [*summary["training_warnings"], *summary["notes"]]]
    if summary.get("weak"):
        said.append(f"- {WEAK}")
    return "## Limits\n\n" + "\n".join(said)


def _token_limit(info: Mapping[str, Any]) -> list[str]:
    """The line on long texts, of a model that reads text."""
    if not info["max_tokens"]:
        return []
    return [f"- Texts are read up to {info['max_tokens']} tokens; what follows is not seen by the encoder."]


def _use(info: Mapping[str, Any]) -> str:
    segments, media = "times" in info, "windows" in info
    call, table = 'model.predict(["a text"])', "segments.parquet" if segments else "songs.parquet"
    if segments or media:
        call = f'model.predict{"_segments" if segments else ""}(pd.read_parquet("{table}"))'
    imports = "import pandas as pd\n\nimport rainbow_ray\n" if segments or media else "import rainbow_ray\n"
    root = ', media_root="media"' if media else ""
    asked = f"--manifest {table} --media-root media --out scores.parquet" if media else '--text "…"'
    return (
        f"{USE}\n\n```python\n"
        f'{imports}\nmodel = rainbow_ray.load("this/folder"{root})\n{call}\n```\n\n'
        f"or `python -m rainbow_ray.predict --model this/folder {asked}`. Loading needs no network and runs no code"
        " from this folder."
    )


def with_use(card: str, use: str) -> str:
    """Return a bundle's card with another last section, for a folder that is loaded in another way.

    Args:
        card: `README.md` of the bundle.
        use: The section, without its heading.
    """
    return f"{card.partition(USE)[0].rstrip()}\n\n{USE}\n\n{use}\n"


def onnx_use(modalities: Sequence[str], max_tokens: int, inputs: Sequence[str]) -> str:
    """Return how an ONNX folder is loaded.

    Args:
        modalities: What the model reads.
        max_tokens: Tokens of the longest text that it reads.
        inputs: Names of the graph's inputs.
    """
    names = ", ".join(f"`{name}`" for name in inputs)
    graph = (f"`model.onnx` takes {names} and gives uncalibrated scores; `bundle.json` names them and has the"
             " calibration.")  # fmt: skip
    tokenizer = f" `tokenizer.json` cuts texts at {max_tokens} tokens and pads nothing." if "text" in modalities else ""
    if tuple(modalities) != ("text",):
        return (
            f"This folder holds an ONNX graph that reads {', '.join(modalities)}, one window an example: onnxruntime"
            f" runs it; `rainbow_ray.load` and `predict` take the run that it came from. {graph}{tokenizer}"
        )
    example = 'import rainbow_ray\n\nmodel = rainbow_ray.load("this/folder")\nmodel.predict(["a text"])'
    return (
        "This folder holds an ONNX graph: `pip install 'rainbow-ray[predict]'` is enough, without torch and Ray.\n\n"
        f"```python\n{example}\n```\n\n"
        "`predict` returns a list of dictionaries with `prediction`, scores and `reason`. In a terminal: `python -m"
        ' rainbow_ray.predict --model this/folder --text "…"`. Tables are scored by the run that it came from.'
        f" {graph}{tokenizer}"
    )


def hub_use(max_tokens: int, notes: Sequence[str]) -> str:
    """Return how a folder for transformers is loaded.

    Args:
        max_tokens: Tokens of the longest text that the model reads.
        notes: What differs from the bundle.
    """
    listed = "".join(f"\n- {note}" for note in notes)
    return (
        "This folder is for plain transformers; `rainbow_ray.load` takes the run that it came from.\n\n"
        "```python\nfrom transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model="this/folder")\n'
        'classify("a text", truncation=True, top_k=None)\n```\n\n'
        f"With `truncation=True` texts are cut at {max_tokens} tokens.{listed}"
    )


def _precision(summary: Mapping[str, Any]) -> str:
    if summary["precision"] == "fp32":
        return "fp32, in training and here"
    return f"trained and measured in {summary['precision']}; here fp32, whose scores differ by some thousandths"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
