"""The pretrained text encoder of which nothing is trained, which linear models of its hidden states read."""

from __future__ import annotations

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.modalities.encoder_cache import clone_encoder
from rainbow_ray.modalities.text.adapters import ADAPTERS
from rainbow_ray.modalities.text.encoder import TextEncoder, frozen_config


def load_frozen_encoder(name: str, config: TextEncoderConfig, depth: int | str = "last") -> TextEncoder:
    """Return a pretrained text encoder of which nothing is trained, around the tensors of the cached one.

    Args:
        name: `embedded`, a local folder, or a hub name.
        config: Config of the encoder, of which layers and freezing are not read.
        depth: Number of layers to run; `last` for all. Encoders of other families than `ADAPTERS`, which may end in a
            norm that the last layer that is run would get, are not cut off.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        InputError: It cannot be loaded.
    """
    body = clone_encoder(name)
    depth = depth if body.config.model_type in ADAPTERS else "last"
    return TextEncoder(body, frozen_config(config, depth)).eval()
