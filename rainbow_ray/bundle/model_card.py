"""Model card of a bundle, with the sections of model cards on the Hugging Face Hub.

Reference:
    M. Mitchell et al., Model cards for model reporting, FAccT 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rainbow_ray.evaluation.solution import describe_solution
from rainbow_ray.modalities.selection import reads_only_text
from rainbow_ray.modalities.spec import get_modality
from rainbow_ray.utils.number_format import format_interval, format_number

MIN_SONGS = 500  # below, the card warns of wide intervals
MAX_METRICS = 8  # columns of the table of results
USE = "## How to use"
EARLIER_USE = "## How to load it"  # heading of this section in cards of version 0.1
WEAK = ("The model was trained on labels of songs, not of segments: the score of a segment is its contribution to the"
        " score of its song, and is marked WEAK in all outputs.")  # fmt: skip


def write_card(summary: Mapping[str, Any], info: Mapping[str, Any], n_members: int) -> str:
    """Return the text of the model card.

    Args:
        summary: Content of the run's `summary.json`.
        info: Description of the bundle.
        n_members: Members of an ensemble; 0 for a single model.

    Returns:
        Markdown.
    """
    sections = [
        f"# {summary['target']} (phase {summary['phase']}, {summary['task']})\n\n{summary['verdict']}",
        _model_description(summary, info, n_members),
        _intended_use(summary, info),
        _training_data(summary, info),
        _evaluation_results(summary),
        _limitations(summary, info),
        f"{USE}\n\n{_bundle_use(info)}",
    ]
    return "\n\n".join(sections) + "\n"


def replace_use(card: str, use: str) -> str:
    """Replace the section on loading, which is the last one, for a folder that is loaded in another way.

    Args:
        card: Text of the model card of a bundle.
        use: The new section, without its heading.

    Returns:
        Text of the model card of the folder.
    """
    other_sections = card.partition(USE)[0].partition(EARLIER_USE)[0].rstrip()
    return f"{other_sections}\n\n{USE}\n\n{use}\n"


def onnx_use(modalities: Sequence[str], max_tokens: int, inputs: Sequence[str], *, is_stacked: bool = False) -> str:
    """Return the section on loading an ONNX bundle.

    Args:
        modalities: Modalities that the model reads.
        max_tokens: Tokens of the longest text that it reads.
        inputs: Names of the graph's inputs.
        is_stacked: Whether linear models are beside the graph.

    Returns:
        Markdown, without a heading.
    """
    names = ", ".join(f"`{name}`" for name in inputs)
    outputs = "uncalibrated scores"
    if is_stacked:
        outputs = ("the scores of each fit's neural network and features of the encoders, which the linear models and"
                   " weights of `stack.json` make uncalibrated scores of")  # fmt: skip
    graph = f"`model.onnx` maps {names} to {outputs}; `bundle.json` contains their names and the calibration."
    tokenizer = f" `tokenizer.json` truncates texts to {max_tokens} tokens and does not pad." if max_tokens else ""
    if not reads_only_text(modalities):
        return (
            f"This folder contains an ONNX graph that reads {', '.join(modalities)}, one window per example. Run it"
            " with onnxruntime; `rainbow_ray.load` and `predict` take the run that it was exported from."
            f" {graph}{tokenizer}{_input_sources(modalities, inputs)}"
        )
    example = 'import rainbow_ray\n\nmodel = rainbow_ray.load("this/folder")\nmodel.predict(["a text"])'
    return (
        "This folder contains an ONNX graph. `pip install 'rainbow-ray[predict]'` is sufficient; PyTorch and Ray are"
        f" not needed.\n\n```python\n{example}\n```\n\n"
        "`predict` returns a list of dictionaries with `prediction`, scores and `reason`. On the command line: `python"
        ' -m rainbow_ray.predict --model this/folder --text "…"`. To predict tables, use the run that it was exported'
        f" from. {graph}{tokenizer}"
    )


def _input_sources(modalities: Sequence[str], inputs: Sequence[str]) -> str:
    """Return where inputs of the graph come from."""
    sources = {key: text for name in modalities for key, text in get_modality(name).input_sources.items()}
    return "".join(f" `{key}` is {text}." for key, text in sources.items() if key in inputs)


def hub_use(max_tokens: int, notes: Sequence[str]) -> str:
    """Return the section on loading a folder for transformers.

    Args:
        max_tokens: Tokens of the longest text that the model reads.
        notes: Differences from the bundle.

    Returns:
        Markdown, without a heading.
    """
    differences = "".join(f"\n- {note}" for note in notes)
    return (
        "This folder is loaded by transformers; `rainbow_ray.load` takes the run that it was exported from.\n\n"
        "```python\nfrom transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model="this/folder")\n'
        'classify("a text", truncation=True, top_k=None)\n```\n\n'
        f"`truncation=True` truncates texts to {max_tokens} tokens.{differences}"
    )


def _model_description(summary: Mapping[str, Any], info: Mapping[str, Any], n_members: int) -> str:
    n_folds = summary["counts"]["folds"]
    model = f"an ensemble of the {n_members} models of the folds, with averaged scores" if n_members else "one model"
    if not n_members and n_folds > 1:
        model += ", trained on all songs after cross-validation"
    precision = "fp32, in training and in this bundle"
    if summary["precision"] != "fp32":
        precision = (f"trained and evaluated in {summary['precision']}; this bundle is fp32, with scores that differ by"
                     " some thousandths")  # fmt: skip
    stack = summary.get("stack")
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in stack["weights"].items()) if stack else ""
    rows = {
        "task": f"{summary['task']} (phase {summary['phase']})",
        "target": f"`{info['target']}`",
        "inputs": ", ".join(f"`{name}`" for name in [*info["text_columns"], *info["media_columns"]]) or "–",
        "text encoder": f"`{info['encoder']}`" if info["encoder"] else "–",
        "model": model,
        **({"stacked ensemble": f"weights {weights}"} if stack else {}),
        **({"training": solution} if (solution := describe_solution(summary)) else {}),
        "precision": precision,
        "config": f"hash `{info['config_hash']}`",
    }
    return f"## Model description\n\n{_table(rows)}"


def _intended_use(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    unit = "segments of songs" if "times" in info else "songs"
    inputs = ", ".join(f"`{name}`" for name in [*info["text_columns"], *info["media_columns"]])
    return (
        f"## Intended use\n\nThe model predicts `{summary['target']}` of {unit} from {inputs}. It is intended for"
        f" {unit} like those that it was trained on; check it on labels of your own before you rely on it elsewhere."
    )


def _training_data(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{n} {reason}" for reason, n in summary["counts"]["dropped"].items())
    rows = {
        "songs": info["trained_on_songs"],
        "excluded": dropped or "nothing",
        "data": f"hash `{info['data_hash']}`" + (" (the built-in demo songs)" if summary["demo"] else ""),
    }
    return f"## Training data\n\n{_table(rows)}"


def _evaluation_results(summary: Mapping[str, Any]) -> str:
    metrics, n_folds = summary["metrics"], summary["counts"]["folds"]
    names = [name for name, value in metrics.items() if name != "epoch" and value is not None]
    names = [summary["metric"], *(name for name in names if name != summary["metric"])][:MAX_METRICS]
    intervals = [format_interval(summary["ci95"].get(name), separator=" to ") for name in names]
    rows = [["model", *(format_number(metrics.get(name)) for name in names)], ["95% interval", *intervals]]
    if stack := summary.get("stack"):
        rows.append(["neural network alone", *(format_number(stack["neural"].get(name)) for name in names)])
    for baseline, values in summary["baselines"].items():
        rows.append([baseline, *(format_number(values.get(name)) for name in names)])
    header = f"| | {' | '.join(name.replace('_', ' ') for name in names)} |\n|{' --- |' * (len(names) + 1)}"
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    split = f"{n_folds}-fold cross-validation" if n_folds > 1 else "one split into training and validation songs"
    contributions = f"\n\n{stack['contributions']}" if stack else ""
    return (
        f"## Evaluation results\n\nEstimated by {split}, grouped by song: each song is scored by a model that was not"
        " trained on it. Intervals are bootstrap intervals over songs. Baselines are evaluated on the same songs.\n\n"
        f"{header}\n{body}{contributions}"
    )


def _limitations(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    n_songs = info["trained_on_songs"]
    wide_note = ", which are few: the results above are uncertain" if n_songs < MIN_SONGS else ""
    lines = [f"Trained on {n_songs} songs{wide_note}."]
    if info["max_tokens"]:
        lines.append(f"Texts are read up to {info['max_tokens']} tokens; the encoder does not read the remainder.")
    lines.append("Songs unlike the training data (by other authors, in other languages, labeled in other ways) were not"
                 " evaluated.")  # fmt: skip
    lines += [*summary["training_warnings"], *summary["notes"]]
    if summary.get("weak"):
        lines.append(WEAK)
    return "## Limitations\n\n" + "\n".join(f"- {line}" for line in lines)


def _bundle_use(info: Mapping[str, Any]) -> str:
    """Return the section on loading a bundle, without its heading."""
    predicts_segments, reads_media = "times" in info, "windows" in info
    table = "segments.parquet" if predicts_segments else "songs.parquet"
    imports, call, options = "import rainbow_ray", 'model.predict(["a text"])', '--text "…"'
    if predicts_segments or reads_media:
        imports = "import pandas as pd\n\nimport rainbow_ray"
        call = f'model.predict{"_segments" if predicts_segments else ""}(pd.read_parquet("{table}"))'
    if reads_media:
        options = f"--manifest {table} --media-root media --out scores.parquet"
    media_root = ', media_root="media"' if reads_media else ""
    return (
        f'```python\n{imports}\n\nmodel = rainbow_ray.load("this/folder"{media_root})\n{call}\n```\n\n'
        f"On the command line: `python -m rainbow_ray.predict --model this/folder {options}`. Loading needs no network"
        " access and executes no code from this folder."
    )


def _table(rows: Mapping[str, object]) -> str:
    """Return a Markdown table of two columns without a header."""

    def escape(value: object) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {escape(value)} |" for name, value in rows.items())])
