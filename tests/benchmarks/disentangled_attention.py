"""Training steps of a DeBERTa-v3 shape with our attention and with that of transformers, in turns.

Both have the same weights; a step is a forward and a backward pass of all layers.
`python -m tests.benchmarks.disentangled_attention [--layers 3] [--precision fp32 bf16]` prints a line of JSON for each
precision and batch, with median seconds and their ratio; on a GPU where there is one, with the tokens per second and
the share of the peak that `--peak-tflops` names.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from torch import nn
from transformers import DebertaV2Config, DebertaV2Model

from rainbow_ray.modalities.text.disentangled_attention import use_bias_attention

BASE: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
    "max_position_embeddings": 512, "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "position_biased_input": False,
}  # fmt: skip
BATCHES = {
    "cpu": ((32, 16), (16, 32), (16, 64), (8, 128), (4, 256), (2, 384), (2, 512)),
    "cuda": ((32, 128), (64, 256), (64, 512)),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def train_step(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the seconds of a forward and a backward pass."""
    if ids.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.autocast(ids.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.autograd.backward(hidden.float().square().mean())
    model.zero_grad(set_to_none=True)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_flops(batch: int, length: int, layers: int) -> float:
    """Return the operations of the matrix products of a step: those of all weights, and of content scores."""
    width, inner = BASE["hidden_size"], BASE["intermediate_size"]
    weights = 4 * width * width + 2 * width * inner
    return 6.0 * batch * length * layers * (weights + 2 * length * width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=None)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = options.layers or (12 if device.type == "cuda" else 3)
    torch.manual_seed(0)
    original = DebertaV2Model(DebertaV2Config(num_hidden_layers=layers, **BASE)).train().to(device)
    ours = copy.deepcopy(original)
    use_bias_attention(ours)
    for name in options.precision:
        for batch, length in BATCHES[device.type]:
            ids = torch.randint(3, BASE["vocab_size"], (batch, length), device=device)
            mask = torch.ones(batch, length, dtype=torch.long, device=device)
            mask[batch // 2 :, 3 * length // 4 :] = 0
            steps = [[train_step(model, ids, mask, PRECISIONS[name]) for model in (original, ours)]
                     for _ in range(options.rounds + 1)][1:]  # fmt: skip
            theirs_seconds, our_seconds = (statistics.median(column) for column in zip(*steps, strict=True))
            record: dict[str, Any] = {
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "precision": name,
                "batch": batch, "length": length, "layers": layers, "transformers_s": round(theirs_seconds, 4),
                "ours_s": round(our_seconds, 4), "ratio": round(theirs_seconds / our_seconds, 3),
                "tokens_per_second": round(batch * length / our_seconds),
            }  # fmt: skip
            if options.peak_tflops:
                flops = matrix_flops(batch, length, layers) / our_seconds
                record["share_of_peak"] = round(flops / options.peak_tflops / 1e12, 3)
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
