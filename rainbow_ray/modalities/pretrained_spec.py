"""The part of `ModalitySpec` with the pretrained encoder of a modality: loading it, and its files in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rainbow_ray.modalities.encoder_types import PretrainedEncoder


class HasPretrainedEncoder:
    """The pretrained encoder of a modality; the methods need no implementation where it has none.

    Attributes:
        encoder_folder: Folder of a bundle with the config of the encoder; None without one.
    """

    encoder_folder: str | None = None

    def load_pretrained(self, name: str) -> Any:
        """Return a pretrained encoder with its weights.

        Args:
            name: Name of the encoder.

        Returns:
            A model of transformers, in fp32.

        Raises:
            InputError: It cannot be loaded.
        """
        raise NotImplementedError

    def load_config(self, name: str) -> Any:
        """Return the config of a pretrained encoder.

        Args:
            name: Name of the encoder.

        Returns:
            A config of transformers.

        Raises:
            InputError: It cannot be loaded.
        """
        raise NotImplementedError

    def make_body(self, config: Any) -> Any:
        """Return a pretrained encoder with the architecture of a config, and other weights.

        Args:
            config: Config of transformers, as a bundle keeps it.

        Returns:
            A model of transformers, in fp32.
        """
        import torch
        from transformers import AutoModel

        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)

    def wrap_body(self, body: Any, folder: Path, description: Mapping[str, Any]) -> PretrainedEncoder:
        """Return the encoder of a bundle, as `make_modules` takes it.

        Args:
            body: What `make_body` returned.
            folder: Folder of the bundle with the files of the encoder.
            description: Fields of the bundle's description.

        Returns:
            The encoder.
        """
        from rainbow_ray.modalities.encoder_types import PretrainedEncoder

        return PretrainedEncoder(body)

    def save_encoder_files(self, module: Any, folder: Path) -> None:
        """Write the files that describe a pretrained encoder into a bundle; nothing for other encoders.

        Args:
            module: The encoder of the model.
            folder: Folder to write.
        """
        if (body := getattr(module, "body", None)) is not None:
            body.config.save_pretrained(folder)
