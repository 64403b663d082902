"""The part of `ModalitySpec` that the export to ONNX uses: inputs of a modality in the exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GraphBatch:
    """Sizes of a random batch for a graph.

    Attributes:
        n_examples: Number of examples.
        n_tokens: Number of tokens of the longest text.
        n_words: Number of words per text.
        seconds: Length of a window.
        tokenizer: Folder of the tokenizer, or its name; empty without text.
    """

    n_examples: int
    n_tokens: int
    n_words: int
    seconds: float
    tokenizer: str


class GraphInputs:
    """The inputs of a modality in an exported graph, of which each example has one unit.

    Attributes:
        is_exportable: Whether the other methods are implemented.
        inputs_of_any_length: Names of the inputs whose second dimension can have any length.
        input_sources: Where inputs come from, for the model card, by name.
    """

    is_exportable: bool = False
    inputs_of_any_length: tuple[str, ...] = ()
    input_sources: Mapping[str, str] = MappingProxyType({})

    def random_inputs(
        self, modules: Mapping[str, Any], batch: GraphBatch, rng: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return random inputs of the graph.

        Args:
            modules: Modules of `make_modules`, by name.
            batch: Sizes of the batch.
            rng: Random numbers.

        Returns:
            Tensors `(examples, …)` by the names of the graph's inputs.

        Raises:
            NotImplementedError: The modality is not exportable.
        """
        raise NotImplementedError

    def units_of_graph(self, modules: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the units of a batch.

        Args:
            modules: Modules of `make_modules`, by name.
            inputs: Inputs of the graph, also of other modalities.

        Returns:
            What `encode` reads, by name.

        Raises:
            NotImplementedError: The modality is not exportable.
        """
        raise NotImplementedError
