"""Checks of the weights of encoders: their files, their values, and their match with the architecture."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rainbow_ray.utils.errors import first_line, format_names
from rainbow_ray.utils.io import PICKLE_MAGIC, ZIP_MAGIC, describe_foreign_content

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # suffix of the index of sharded weights
OTHER_FORMATS = (".h5", ".msgpack", ".onnx", ".gguf", ".ckpt", ".ot", ".pt", ".pth", ".safetensors", ".bin")
NEVER_READ = ("pooler.", "masked_spec_embed", "contact_head.", "lm_head.")  # weights that may be missing
NON_FLOAT_TYPES = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")  # names in safetensors
PARAMETERS = ("weight", "bias", "gamma", "beta")  # last parts of the names of weights; buffers have other names
ROBERTA_FAMILY = ("roberta", "xlm-roberta", "camembert")  # weight names as in BERT, positions counted differently


def check_finite(module: Any) -> list[str]:
    """Return a problem if a module has weights that are not finite numbers.

    Args:
        module: Any module.

    Returns:
        One problem, or none.
    """
    broken = [name for name, tensor in module.named_parameters() if not torch.isfinite(tensor).all()]
    return [f"its weights are not finite numbers ({format_names(broken)})"] if broken else []


def check_values(body: Any) -> list[str]:
    """Return a problem if a text encoder has the same embedding for all tokens, or an encoder only weights of zero.

    Args:
        body: Model of transformers.

    Returns:
        One problem, or none.
    """
    try:
        table = getattr(body.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # audio encoders have no token embeddings
        table = None
    if table is not None and table.ndim == 2 and len(table) > 1 and bool((table == table[:1]).all()):
        return [f"its token embeddings are all {'zero' if not table.any() else 'the same'}: texts cannot be told apart"
                ]  # fmt: skip
    if not any(bool(tensor.any()) for tensor in body.parameters() if tensor.ndim > 1):
        return ["its weights are all zero"]
    return []


def check_weight_files(folder: Path) -> list[str]:
    """Check the files that transformers loads weights from; it prefers safetensors to pickles.

    `pytorch_model.bin` is accepted, because torch unpickles only tensors from it and runs no code.

    Args:
        folder: Folder of an encoder.

    Returns:
        A problem per file.
    """
    names = [SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX]
    chosen = next((folder / name for name in names if (folder / name).is_file()), None)
    if chosen is None:
        unread = sorted(path.name for path in folder.iterdir() if path.suffix in OTHER_FORMATS)
        unread_files = f"; these files are not read: {format_names(unread)}" if unread else ""
        return [f"the folder has no weights, which must be in {SAFETENSORS} or {PICKLED}{unread_files}"]
    if foreign := describe_foreign_content(chosen):
        return [foreign]
    try:
        files = _list_shards(chosen) if chosen.name.endswith(INDEX) else [chosen]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"{chosen.name} is damaged ({first_line(error)}): copy it again"]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        return [f"{len(missing)} of its {len(files)} weight files are missing ({format_names(missing)})"]
    problems = [problem for file in files if (problem := describe_foreign_content(file))]
    check = _check_safetensors if chosen.name.startswith(SAFETENSORS) else _check_pickled
    return problems or [problem for file in files if (problem := check(file))]


def _list_shards(index: Path) -> list[Path]:
    """Return the files in a weights index. Raises `ValueError` and similar errors if the index is damaged."""
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if any(Path(name).name != name for name in names):
        raise ValueError("it names files outside of the folder")
    return [index.parent / name for name in sorted(names)]


def _check_safetensors(file: Path) -> str | None:
    """Check the header of a safetensors file, its length and its data types."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return _integer_problem(file, {name: opened.get_slice(name).get_dtype() for name in opened.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if _first_bytes(file) == ZIP_MAGIC or _first_bytes(file)[:1] == PICKLE_MAGIC:
            return f"{file.name} is a pickle under another name: rename it to {PICKLED}, or save it as safetensors"
        return f"{file.name} is cut off or damaged ({first_line(error)}): copy it again"


def _check_pickled(file: Path) -> str | None:
    """Check a file of `torch.save`."""
    if zipfile.is_zipfile(file):
        try:
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            dtypes = {name: tensor.dtype for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        except Exception:  # torch raises many types; loading the model reports the problem
            return None
        integer_types = {name: str(dtype) for name, dtype in dtypes.items()
                 if not dtype.is_floating_point and not dtype.is_complex}  # fmt: skip
        return _integer_problem(file, integer_types)
    if _first_bytes(file)[:1] == PICKLE_MAGIC:
        return None
    return f"{file.name} is cut off or damaged: copy it again"


def _integer_problem(file: Path, dtypes: Mapping[str, str]) -> str | None:
    """Return a problem if weights are integers: transformers would not apply the scales of a quantized model."""
    integer_names = [name for name, dtype in dtypes.items() if (dtype in NON_FLOAT_TYPES or dtype.startswith("torch."))
             and name.rsplit(".", 1)[-1] in PARAMETERS]  # fmt: skip
    if not integer_names:
        return None
    dtype = dtypes[integer_names[0]].removeprefix("torch.")
    return (
        f"{file.name} has {len(integer_names)} weights of type {dtype} ({format_names(integer_names)}), as"
        " quantized models have: use floating-point weights"
    )


def _first_bytes(file: Path) -> bytes:
    """Return the magic bytes of a file."""
    with file.open("rb") as opened:
        return opened.read(2)


def check_loaded(body: Any, info: dict[str, Any]) -> list[str]:
    """Check for weights of an architecture that transformers did not find or could not use.

    Args:
        body: The loaded model.
        info: Loading info of `from_pretrained`.

    Returns:
        A sentence per problem.
    """
    kind, n_expected = body.config.model_type, len(body.state_dict())
    missing = sorted(name for name in info["missing_keys"] if not _is_never_read(name))
    mismatched = sorted((name, tuple(shape), tuple(expected)) for name, shape, expected in info["mismatched_keys"])
    problems = []
    bert = next((name for name in body.config.architectures or () if name.startswith("Bert")), None)
    if bert and kind in ROBERTA_FAMILY:  # the weights of both have the same names
        problems.append(f"model_type in config.json is {kind!r}, but its weights are those of a {bert}")
    if missing:
        unexpected = sorted(info["unexpected_keys"])
        extra = f"; its file has {len(unexpected)} others ({format_names(unexpected)})" if unexpected else ""
        problems.append(f"{len(missing)} of the {n_expected} weights of a {kind!r} model are missing"
                        f" ({format_names(missing)}){extra}: the weights or config.json belong to another model"
                        )  # fmt: skip
    used = [mismatch for mismatch in mismatched if not _is_never_read(mismatch[0])]
    if used:
        name, shape, expected_shape = used[0]
        further = f", and {len(used) - 1} more" if len(used) > 1 else ""
        problems.append(f"weights have other shapes than in config.json: {name} is {_format_shape(shape)}, not"
                        f" {_format_shape(expected_shape)}{further}")  # fmt: skip
    return problems + _check_depth(body, info)


def _check_depth(body: Any, info: dict[str, Any]) -> list[str]:
    """Return a problem if the weights have more layers than config.json: transformers would drop them silently."""
    lists = [(name, len(module)) for name, module in body.named_modules() if isinstance(module, torch.nn.ModuleList)]
    total = getattr(body.config, "num_hidden_layers", None)
    for name, count in lists:
        start = f"{name}."
        extra_layers = {key.split(start, 1)[1].split(".")[0] for key in info["unexpected_keys"] if start in f"{key}"}
        deeper = {int(number) for number in extra_layers if number.isdigit() and int(number) >= count}
        if count == total and deeper:
            return [f"its weights have {max(deeper) + 1} layers, but config.json has {count}: the weights or"
                    " config.json belong to another model"]  # fmt: skip
    return []


def _is_never_read(name: str) -> bool:
    return any(part in name for part in NEVER_READ)


def _format_shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
