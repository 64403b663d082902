"""Lists, sets, tuples and mappings that were written as text: read where there is one reading, refused otherwise.

Tables that went through CSV, `astype(str)` or a database's export hold containers in the spelling of the program that
wrote them: JSON, Python, numpy (`['a' 'b']`, no commas), PostgreSQL (`{a,b}`), Spark and Java (`[a, b]`, `{a=true}`).
`parse_container` reads all of these with one grammar.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rainbow_ray.data.text_cells import label_name, scalar_text

CLOSING = {"[": "]", "(": ")", "{": "}"}
QUOTED = re.compile(r"[uUbBrR]?('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.DOTALL)
BARE = re.compile(r"[^\s,\[\](){}'\":=]+")
# `007` is no number: its zeros would be lost
NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
CALL = re.compile(r"(?:np\.|numpy\.|pd\.|pandas\.|collections\.|decimal\.|torch\.|tf\.|jnp\.|pa\.)?([A-Za-z_]\w*)\(")
KEYWORD = re.compile(
    r"\s*,\s*(?:dtype|shape|name|length|ordered|categories|index|device|requires_grad|size|mask|fill_value|maxlen)\s*=[^()]*(?:\([^()]*\)[^()]*)*"
)
CONTAINER_CALLS = {"array", "list", "tuple", "set", "frozenset", "dict", "OrderedDict", "defaultdict", "deque",
                   "Index", "dict_keys", "dict_values", "Counter", "mappingproxy", "Series", "tensor", "Tensor",
                   "Array", "matrix", "masked_array", "UserList", "CategoricalIndex", "Int64Index"}  # fmt: skip
SCALAR_CALLS = {"str_", "bytes_", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16",
                "uint32", "uint64", "bool", "bool_", "Decimal"}  # fmt: skip
CONSTANTS: dict[str, Any] = {"None": None, "null": None, "NULL": None, "nan": None, "NaN": None, "NaT": None,
                             "<NA>": None, "True": True, "true": True, "False": False, "false": False,
                             "np.True_": True, "np.False_": False, "np.nan": None}  # fmt: skip
SHORTENED = "a list that was shortened with '...'"
BARE_WORDS = "words without quotes or commas between them"
MIXED = "commas between some of the items only"
TORN = "a list that is cut off or has quotes that do not match"
MAPPING = "a mapping whose values are not true or false"
NESTED = "lists inside of lists"
SEVERAL = "several labels where one is expected"
INDICATORS = "true or false values without the names of the classes"


class ContainerError(ValueError):
    """A text that begins as a container and has no single reading. Its message names the form."""


@dataclass(frozen=True)
class Word:
    """A word without quotes and its position in the text.

    Attributes:
        text: The word.
        start: Index of its first character.
        stop: Index after its last character.
    """

    text: str
    start: int
    stop: int


def parse_container(text: str) -> list[Any] | dict[Any, Any] | None:
    """Read a container that was written as text.

    Args:
        text: A cell. It is a container where it begins with a bracket (or a call such as `array([`) and ends with its
            counterpart.

    Returns:
        The items (strings, numbers, booleans, None for what is missing, further containers), a dict of a mapping, or
        None where the text is no container.

    Raises:
        ContainerError: The text is a container that can be read in several ways, or that is not whole.
    """
    stripped = text.strip()
    call = CALL.match(stripped)
    begins = stripped[:1] in CLOSING or (call is not None and call[1] in CONTAINER_CALLS)
    if not begins or (stripped[0] == "(" and not re.search(r"[,'\"]", stripped) and stripped != "()"):
        return None  # a name may stand in parentheses
    document = _json(stripped)
    return document if document is not None else _read(stripped)


def container_items(value: Any, keep: Collection[str] = ()) -> list[Any] | None:
    """Return the items of a container: a list, a mapping of names to booleans, or a text that spells one out.

    Args:
        value: A cell of a label column as Python has it.
        keep: Items that are names as they are written, whatever they look like.

    Returns:
        The items, None among them where one is missing, or the keys of a mapping that are true; None where the value
        is no container.

    Raises:
        ContainerError: The container cannot be read, or holds further ones.
    """
    if isinstance(value, str):
        value = parse_container(value)
    if isinstance(value, dict):
        return _true_keys(list(value.items()))
    if not isinstance(value, list):
        return None
    if value and all(_is_pair(item) for item in value):  # a mapping, as Arrow and pandas spell it
        return _true_keys([tuple(item) for item in value])
    if any(isinstance(item, list | tuple | dict | set) for item in value):
        raise ContainerError(NESTED)
    if any(isinstance(item, str) and label_name(item) not in keep and _spells_container(item) for item in value):
        raise ContainerError(NESTED)
    return [None if item_name(item) is None else item for item in value]


def label_items(value: Any, keep: Collection[str] = ()) -> list[str | None] | None:
    """Return the names of classes in a container.

    Args:
        value: Value of a cell: a container, text that spells one, or a single value.
        keep: Texts that are returned as they are although they could be read as a container.

    Returns:
        The names, with None for missing items; None where the value is not a container.

    Raises:
        ContainerError: The container holds booleans (indicators of classes), or has no single interpretation.
    """
    items = container_items(value, keep)
    if items is not None and any(isinstance(item, bool) for item in items):
        raise ContainerError(INDICATORS)
    return None if items is None else [item_name(item) for item in items]


def single_item(text: str) -> str | None:
    """Return the one label that a cell holds: its text, or the only item of a container that it spells out.

    Args:
        text: A cell, as `label_name` gives it.

    Returns:
        The label; None where the container is empty or its items are missing.

    Raises:
        ContainerError: The cell holds several labels, or a container that cannot be read.
    """
    if text.startswith("(") and not re.search(r"['\"]", text):  # a name in parentheses as well as a tuple
        return text
    try:
        items = container_items(text)
    except ContainerError as error:
        if str(error) == BARE_WORDS:  # `[Verse 1]`: a list of one label has no such spelling
            return text
        raise
    if items is None:
        return text
    names = list(dict.fromkeys(name for item in items if (name := item_name(item)) is not None))
    if len(names) > 1:
        raise ContainerError(SEVERAL)
    return names[0] if names else None


def item_name(value: Any) -> str | None:
    """Return the class name that a single value represents.

    Args:
        value: An item of a container.

    Returns:
        The normalized name, or None where the value is missing or blank.
    """
    text = scalar_text(value)
    return (label_name(text) or None) if text is not None else None


def load_json(text: str) -> Any:
    """Return a JSON document in which numbers keep all their digits.

    Args:
        text: A document.

    Returns:
        What `json.loads` returns, with numbers as in `read_number`.

    Raises:
        ValueError: The text is no JSON.
        RecursionError: It is too deep.
    """
    return json.loads(text, parse_int=Decimal, parse_float=read_number)


def read_number(text: str) -> Decimal | float | str:
    """Return the exact value of a number that is written as text.

    Args:
        text: Text of a number, possibly with an exponent.

    Returns:
        A `Decimal` or a float of the same value; the text itself where neither has that value.
    """
    if not re.search(r"[eE]", text):
        return Decimal(text)
    number = float(text)  # with an exponent, as programs write floats
    return number if math.isfinite(number) and Decimal(repr(number)) == Decimal(text) else text


def _spells_container(text: str) -> bool:
    """Return whether an item of a list is itself a list that was written as text; `[Live]` is a name."""
    if text.strip()[:1] == "(" and not re.search(r"['\"]", text):
        return False
    try:
        document = parse_container(text)
    except ContainerError as error:
        if str(error) == BARE_WORDS:
            return False
        raise
    return document is not None and (bool(re.search(r"['\"({:=]", text)) or len(document) != 1)


def _json(text: str) -> list[Any] | dict[Any, Any] | None:
    try:
        document = load_json(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, list | dict) else None


def _read(text: str) -> list[Any] | dict[Any, Any] | None:
    """Parse a container in any of the spellings; arguments and errors as in `parse_container`."""
    if text[0] in "[{" and CLOSING[text[0]] not in text:
        raise ContainerError(TORN)
    reader = _Reader(text)
    try:
        value = reader.value()
    except RecursionError:
        raise ContainerError(NESTED) from None
    except _TornError:
        if re.match(r"[\[({\w.]+\s*['\"\[]", text) or text[-1:] == CLOSING.get(text[0]):
            raise ContainerError(TORN) from None
        return None
    if reader.position < len(text):  # `[Live] second take` is a name
        if text[1:2] in ("'", '"'):
            raise ContainerError(TORN)
        return None
    return value if isinstance(value, list | dict) else None


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str) and _truth(item[1]) != ""


def _truth(value: Any) -> bool | str:
    """True or false as mappings have it; an empty string for anything else."""
    if value is None or value is False or value is True:
        return bool(value)
    text = (scalar_text(value) or "").strip().lower()
    return {"1": True, "true": True, "0": False, "false": False, "": False}.get(text, "")


def _true_keys(pairs: list[Any]) -> list[str]:
    truths = [(item_name(key), _truth(value)) for key, value in pairs]
    if any(truth == "" for _, truth in truths):
        raise ContainerError(MAPPING)
    return [name for name, truth in truths if truth and name]


class _TornError(Exception):
    """The text ends, or goes on, where the grammar does not let it."""


class _Reader:
    """A recursive-descent reader of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def value(self) -> Any:
        """Return a quoted string, a word, a number, a constant or a container."""
        self._skip_space()
        character = self.text[self.position : self.position + 1]
        if character in CLOSING and character:
            self.position += 1
            return self._sequence(CLOSING[character])
        if (quoted := QUOTED.match(self.text, self.position)) is not None:
            self.position = quoted.end()
            return self._string(quoted[0])
        if (call := CALL.match(self.text, self.position)) is not None:
            return self._call(call)
        if (bare := BARE.match(self.text, self.position)) is not None:
            self.position = bare.end()
            return self._atom(bare)
        raise _TornError

    def _string(self, quoted: str) -> str:
        quoted = quoted.lstrip("uUbBrR")
        try:
            return str(ast.literal_eval(quoted))
        except (ValueError, SyntaxError):  # a line break inside of the quotes
            return quoted[1:-1]

    def _atom(self, bare: re.Match[str]) -> Any:
        if bare[0] in CONSTANTS:
            return CONSTANTS[bare[0]]
        if NUMBER.fullmatch(bare[0]):
            return read_number(bare[0])
        return Word(bare[0], bare.start(), bare.end())

    def _call(self, call: re.Match[str]) -> Any:
        """Parse the argument of a constructor: a container, a scalar, or nothing."""
        if call[1] not in CONTAINER_CALLS | SCALAR_CALLS:
            raise _TornError
        self.position = call.end()
        self._skip_space()
        if self._take(")"):
            return []
        if call[1] == "defaultdict":  # its factory comes first
            factory = re.compile(r"<[^>]*>\s*,").match(self.text, self.position)
            self.position = factory.end() if factory else self.position
        value = self.value()
        if (keyword := KEYWORD.match(self.text, self.position)) is not None:
            self.position = keyword.end()
        self._skip_space()
        if not self._take(")"):
            raise _TornError
        value = value.text if isinstance(value, Word) else value
        if call[1] == "Decimal" and isinstance(value, str):
            return CONSTANTS[value] if value in CONSTANTS else read_number(value) if NUMBER.fullmatch(value) else value
        return value

    def _sequence(self, closing: str) -> Any:
        """Parse the items up to the closing bracket; return a dict if they are pairs."""
        elements: list[list[Any]] = [[]]
        spans: list[list[int]] = [[self.position, self.position]]
        values: dict[int, Any] = {}
        while True:
            self._skip_space()
            if self._take(closing):
                break
            if self._take(","):
                elements.append([])
                spans.append([self.position, self.position])
            elif len(elements[-1]) == 1 and (self._take(":") or self._take("=")):
                key = len(elements) - 1
                value = self.value()
                values[key] = value.text if isinstance(value, Word) else value
            else:
                start = self.position
                if elements[-1] and not self.text[start - 1].isspace():  # `['it''s']`
                    raise _TornError
                elements[-1].append(self.value())
                spans[-1] = [spans[-1][0] if len(elements[-1]) > 1 else start, self.position]
        return self._combine(elements, spans, values)

    def _combine(self, elements: list[list[Any]], spans: list[list[int]], values: dict[int, Any]) -> Any:
        if elements and not elements[-1]:  # nothing at all, or a comma at the end
            elements = elements[:-1]
        if any(isinstance(item, Word) and set(item.text) <= {".", "…"} for element in elements for item in element):
            raise ContainerError(SHORTENED)
        if values:
            if len(values) != len(elements) or any(len(element) != 1 for element in elements):
                raise ContainerError(MIXED)
            keys = [element[0].text if isinstance(element[0], Word) else element[0] for element in elements]
            if any(isinstance(key, list | dict) for key in keys):
                raise ContainerError(NESTED)
            return dict(zip(keys, (values[i] for i in range(len(elements))), strict=True))
        if len(elements) == 1 and len(elements[0]) > 1:
            if any(isinstance(item, Word) for item in elements[0]):
                raise ContainerError(BARE_WORDS)
            return elements[0]  # numpy's spelling
        if any(isinstance(item, Word) for element in elements for item in element):
            elements = [self._without_nan(element, span) for element, span in zip(elements, spans, strict=False)]
        return [self._to_item(element, span) for element, span in zip(elements, spans, strict=False)]

    def _without_nan(self, element: list[Any], span: list[int]) -> list[Any]:
        """Return an element in which `nan` is a word, as among other words without quotes."""
        text = self.text[span[0] : span[1]].strip()
        return [Word(text, *span)] if element == [None] and text.casefold() == "nan" else element

    def _to_item(self, element: list[Any], span: list[int]) -> Any:
        """Return the item between two commas: one value, or the words of a name."""
        if len(element) == 1:
            return element[0].text if isinstance(element[0], Word) else element[0]
        simple = all(isinstance(item, Word | Decimal | float | bool) or item is None for item in element)
        if not element or not simple or not any(isinstance(item, Word) for item in element):
            raise ContainerError(MIXED)
        return " ".join(self.text[span[0] : span[1]].split())

    def _take(self, character: str) -> bool:
        is_match = self.text.startswith(character, self.position)
        self.position += is_match
        return is_match

    def _skip_space(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1
