"""Weights of encoders: which files hold them, whether these are whole, and whether they are the architecture's own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rainbow_ray.utils.errors import first_line
from rainbow_ray.utils.io import describe_foreign_content

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # after the name of weights that lie in several files
ZIP, PICKLE = b"PK", b"\x80"  # first bytes
NEVER_READ = ("pooler.", "masked_spec_embed", "contact_head.", "lm_head.")  # weights that may be missing
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")  # types of safetensors that no weight has
PARAMETERS = ("weight", "bias", "gamma", "beta")  # last parts of the names of weights; buffers have others
ROBERTA_FAMILY = ("roberta", "xlm-roberta", "camembert")  # laid out as BERT, but for the numbers of positions
SHOWN = 3  # names of files or tensors in a message


def check_finite(module: Any) -> list[str]:
    """Return a problem if a module has weights that are not finite numbers.

    Args:
        module: Any module.

    Returns:
        One problem, or none.
    """
    broken = [name for name, tensor in module.named_parameters() if not torch.isfinite(tensor).all()]
    return [f"its weights are not finite numbers ({_few(broken)})"] if broken else []


def check_values(body: Any) -> list[str]:
    """Return a problem if a text encoder has the same embedding for all tokens, or an encoder only weights of zero.

    Args:
        body: Model of transformers.

    Returns:
        One problem, or none.
    """
    try:
        table = getattr(body.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # of audio encoders
        table = None
    if table is not None and table.ndim == 2 and len(table) > 1 and bool((table == table[:1]).all()):
        return [f"its embeddings of tokens are all {'zero' if not table.any() else 'the same'}: every text would look"
                " like any other"]  # fmt: skip
    if not any(bool(tensor.any()) for tensor in body.parameters() if tensor.ndim > 1):
        return ["its weights are all zero"]
    return []


def check_weight_files(folder: Path) -> list[str]:
    """Return what is wrong with the files that transformers takes weights from; safetensors come before pickles.

    A `pytorch_model.bin` is accepted, because torch unpickles only tensors from it, so that no code runs.

    Args:
        folder: Folder of an encoder.

    Returns:
        A problem per file.
    """
    names = [SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX]
    chosen = next((folder / name for name in names if (folder / name).is_file()), None)
    if chosen is None:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_FORMATS)
        there = f"; what it holds, {_few(others)}, is not read" if others else ""
        return [f"the folder holds no weights, which must be in {SAFETENSORS} or {PICKLED}{there}"]
    if foreign := describe_foreign_content(chosen):
        return [foreign]
    try:
        files = _list_shards(chosen) if chosen.name.endswith(INDEX) else [chosen]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"{chosen.name} is damaged ({first_line(error)}): copy it again"]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        return [f"{len(missing)} of its {len(files)} files of weights are missing ({_few(missing)})"]
    problems = [found for file in files if (found := describe_foreign_content(file))]
    check = _check_safetensors if chosen.name.startswith(SAFETENSORS) else _check_pickled
    return problems or [found for file in files if (found := check(file))]


_OTHER_FORMATS = (".h5", ".msgpack", ".onnx", ".gguf", ".ckpt", ".ot", ".pt", ".pth", ".safetensors", ".bin")


def _list_shards(index: Path) -> list[Path]:
    """The files that an index of weights names. Raises `ValueError` and its like for an index that is none."""
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if any(Path(name).name != name for name in names):
        raise ValueError("it names files elsewhere")
    return [index.parent / name for name in sorted(names)]


def _check_safetensors(file: Path) -> str | None:
    """What is wrong with a file's header, and with its length, which the header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return _integer_problem(file, {name: opened.get_slice(name).get_dtype() for name in opened.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if _first_bytes(file) == ZIP or _first_bytes(file)[:1] == PICKLE:
            return f"{file.name} is a pickle under another name: rename it to {PICKLED}, or save it as safetensors"
        return f"{file.name} is cut off or damaged ({first_line(error)}): copy it again"


def _check_pickled(file: Path) -> str | None:
    """What is wrong with a file that is to be one of `torch.save`."""
    if zipfile.is_zipfile(file):
        try:
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            dtypes = {name: tensor.dtype for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        except Exception:  # of torch, for a file whose own loading says what is wrong with it
            return None
        whole = {name: str(dtype) for name, dtype in dtypes.items()
                 if not dtype.is_floating_point and not dtype.is_complex}  # fmt: skip
        return _integer_problem(file, whole)
    if _first_bytes(file)[:1] == PICKLE:
        return None
    return f"{file.name} is cut off or damaged: copy it again"


def _integer_problem(file: Path, dtypes: Mapping[str, str]) -> str | None:
    """A problem where weights are whole numbers: of a quantised model, whose scales transformers would not apply."""
    found = [name for name, dtype in dtypes.items() if (dtype in INTEGERS or dtype.startswith("torch."))
             and name.rsplit(".", 1)[-1] in PARAMETERS]  # fmt: skip
    if not found:
        return None
    dtype = dtypes[found[0]].removeprefix("torch.")
    return f"{file.name} holds {len(found)} weights of type {dtype} ({_few(found)}), as quantised models have: use" \
           " weights that are floats"  # fmt: skip


def _first_bytes(file: Path) -> bytes:
    """What tells a zip archive, as `torch.save` writes it, from a plain pickle, as it did before torch 1.6."""
    with file.open("rb") as opened:
        return opened.read(2)


def check_loaded(body: Any, info: dict[str, Any]) -> list[str]:
    """Return which weights of an architecture transformers did not find, or could not use.

    Args:
        body: The loaded model.
        info: Loading info of `from_pretrained`.

    Returns:
        A sentence per problem.
    """
    kind, expected = body.config.model_type, set(body.state_dict())
    missing = sorted(name for name in info["missing_keys"] if not _is_never_read(name))
    mismatched = sorted((name, tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"])
    problems = []
    bert = next((name for name in body.config.architectures or () if name.startswith("Bert")), None)
    if bert and kind in ROBERTA_FAMILY:  # whose weights have the same names
        problems.append(f"config.json says model_type {kind!r}, but its weights are those of a {bert}")
    if missing:
        unexpected = sorted(info["unexpected_keys"])
        others = f"; its file has {len(unexpected)} others ({_few(unexpected)})" if unexpected else ""
        problems.append(f"{len(missing)} of the {len(expected)} weights of a {kind!r} model are missing"
                        f" ({_few(missing)}){others}: they are another model's, or config.json is")  # fmt: skip
    used = [one for one in mismatched if not _is_never_read(one[0])]
    if used:
        name, found, wanted = used[0]
        more = f", and {len(used) - 1} more" if len(used) > 1 else ""
        problems.append(f"weights do not have the shapes that config.json asks for: {name} is {_shape(found)}, not"
                        f" {_shape(wanted)}{more}")  # fmt: skip
    return problems + _check_depth(body, info)


def _check_depth(body: Any, info: dict[str, Any]) -> list[str]:
    """A problem where the weights have more layers than config.json: the last ones would be left out in silence."""
    lists = [(name, len(module)) for name, module in body.named_modules() if isinstance(module, torch.nn.ModuleList)]
    total = getattr(body.config, "num_hidden_layers", None)
    for name, count in lists:
        start = f"{name}."
        beyond = {key.split(start, 1)[1].split(".")[0] for key in info["unexpected_keys"] if start in f"{key}"}
        deeper = {int(number) for number in beyond if number.isdigit() and int(number) >= count}
        if count == total and deeper:
            return [f"its weights have {max(deeper) + 1} layers, config.json says {count}: one of them is another"
                    " model's"]  # fmt: skip
    return []


def _is_never_read(name: str) -> bool:
    return any(part in name for part in NEVER_READ)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
