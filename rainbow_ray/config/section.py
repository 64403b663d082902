"""Base class of the sections of the config, and the types of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SEEDS = 2**32  # numpy accepts seeds below this number

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]  # of dropout: 1 would leave nothing
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
# integers are strict, because YAML's `true` is not the number 1
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
PositiveInt = Annotated[int, Field(strict=True, gt=0)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=SEEDS)]
# `strict` keeps 2 an int and 0.33 a float: an int counts layers, a float is a fraction of them
Depth = Annotated[int, Field(strict=True, ge=0)] | Annotated[float, Field(strict=True, ge=0.0, le=1.0)] | str
# how much of an encoder is frozen: a fraction of 1 and `all` mean the same
FrozenDepth = Annotated[
    Depth, AfterValidator(lambda depth: "all" if isinstance(depth, float) and depth == 1 else depth)
]

Names = Mapping[str, str]


class Section(BaseModel):
    """A section of the config.

    Documents of earlier versions are read: former names of keys and values are replaced by their present names, and
    keys that no longer have an effect are skipped.

    Attributes:
        renamed: Present name of each former name of a key.
        renamed_values: Present name of each former name of a value, by key.
        inert: Keys that are accepted and have no effect, with the reason.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())
    renamed: ClassVar[Names] = {}
    renamed_values: ClassVar[Mapping[str, Names]] = {}
    inert: ClassVar[Names] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        former_names = {old: new for old, new in cls.renamed.items() if new not in document}
        present = {former_names.get(key, key): value for key, value in document.items() if key not in cls.inert}
        for key, names in cls.renamed_values.items():
            if isinstance(present.get(key), str):
                present[key] = names.get(present[key], present[key])
        return present
