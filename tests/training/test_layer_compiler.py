"""Layers of text encoders that torch.compile compiles: few graphs, the same gradients, and only in long fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModel

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.model.frozen_feature_cache import MB, FrozenFeatureCache
from rainbow_ray.training import layer_compiler
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.layer_compiler import FIRST_TIMED, LAST_TIMED, MIN_SECONDS_LEFT, LayerCompiler
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, fit_fold, plan_of

BACKEND = "aot_eager"  # graphs as for a GPU, without the code for CPUs, which crashes with PyTorch 2.13
KEYS: dict[str, Any] = {
    "model__text_encoder__freeze_layers": 1, "model__text_encoder__layer": "last", "training__epochs": 2,
    "training__min_steps": 0, "training__device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path, monkeypatch):
    """Every test compiles anew, and leaves nothing in the caches of the process and the user."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compile"))
    monkeypatch.setattr(layer_compiler, "COMPILED_DEVICE", "cpu")
    monkeypatch.setattr(layer_compiler, "BACKEND", BACKEND)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def encoder_of(folder: Any, freeze_layers: int = 0) -> TextEncoder:
    body = AutoModel.from_pretrained(folder)
    for module in body.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return TextEncoder(body, TextEncoderConfig(layer="last", freeze_layers=freeze_layers)).train()


def outputs_and_gradients(encoder: TextEncoder, length: int, n_texts: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(length)
    ids = torch.randint(3, encoder.body.config.vocab_size, (n_texts, length), generator=rng)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    hidden = encoder(ids, mask) * mask[..., None]
    encoder.zero_grad()
    torch.autograd.backward((hidden * torch.randn(hidden.shape, generator=rng)).sum())
    # the bias of keys changes no attention weight: its gradient is rounding alone
    gradients = [p.grad for name, p in encoder.named_parameters() if p.grad is not None and "key" not in name]
    return [hidden.detach(), *(gradient.clone() for gradient in gradients)]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "max_graphs"), [("bert", 1), ("deberta-v2", 2)])
def test_all_layers_and_lengths_share_few_graphs_without_breaks(tiny_encoder, family, max_graphs):
    encoder = encoder_of(tiny_encoder(family))
    lengths = [(40, 3), (9, 2), (90, 2), (64, 8)]
    expected = [outputs_and_gradients(encoder, length, n_texts) for length, n_texts in lengths]
    encoder.compile_layers(BACKEND)
    torch._dynamo.utils.counters.clear()
    for (length, n_texts), tensors in zip(lengths, expected, strict=True):
        for actual, tensor in zip(outputs_and_gradients(encoder, length, n_texts), tensors, strict=True):
            assert (actual - tensor).abs().max() <= 1e-5 * tensor.abs().max().clamp(min=1e-3)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= max_graphs


@pytest.mark.slow
@pytest.mark.parametrize("is_cached", [False, True])
def test_the_graphs_of_training_are_compiled_before_its_steps(
    songs_file, tiny_encoder, tmp_path, monkeypatch, is_cached
):
    """A failure of the compiler in a step would be too late."""
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS, training__compile=True, training__mixed_precision="bf16")
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    cache = FrozenFeatureCache(tmp_path / "cache", 100 * MB) if is_cached else None
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0, frozen_cache=cache)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path / "fit"), ProcessGroup())
    run.model.train()
    run.stepper.compiler.before_step(1)
    n_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert n_graphs > 0
    run.train_epoch()
    run.stepper.train_step(run.dataset.in_memory_subset(train[:1]), 1.0, number=9)
    # without padding there is no mask on a CPU, which is a graph of its own
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2 * n_graphs


@pytest.mark.slow
def test_a_fit_with_compiled_layers_has_the_same_losses(songs_file, tiny_encoder, tmp_path):
    results = {}
    for compiled in (True, False):
        plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS, training__compile=compiled)
        _, results[compiled] = fit_fold(plan, data_of(plan), tmp_path / str(compiled))
    assert results[True].facts["losses"] == pytest.approx(results[False].facts["losses"], abs=1e-4)
    assert any("the trained layers were compiled" in note for note in results[True].facts["notes"])
    assert not any("compile" in note for note in results[False].facts["notes"])


def test_a_compiler_that_fails_leaves_the_fit_as_it_is(songs_file, tiny_encoder, tmp_path, monkeypatch):
    def fail(self: TextEncoder, backend: str) -> None:
        self.compiled_layers = [None]
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand 40 more lines")

    monkeypatch.setattr(TextEncoder, "compile_layers", fail)
    results = {}
    for compiled in (True, False):
        plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS, training__compile=compiled)
        _, results[compiled] = fit_fold(plan, data_of(plan), tmp_path / str(compiled))
    assert results[True].facts["losses"] == results[False].facts["losses"]
    (note,) = (note for note in results[True].facts["notes"] if "training.compile" in note)
    assert note.endswith("because that failed: InvalidCxxCompiler: No working C++ compiler found")


def test_nothing_is_compiled_on_a_cpu(songs_file, tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(layer_compiler, "COMPILED_DEVICE", "cuda")
    plan = plan_of(songs_file, tiny_encoder("bert"), **KEYS, training__compile=True)
    notes = fit_fold(plan, data_of(plan), tmp_path)[1].facts["notes"]
    assert any("true has no effect, because layers are compiled on GPUs alone" in note for note in notes)


def test_compilation_of_frozen_layers_is_refused_with_a_note(songs_file, tiny_encoder, tmp_path):
    keys = {**KEYS, "model__text_encoder__freeze_layers": "all"}
    plan = plan_of(songs_file, tiny_encoder("bert"), **keys, training__compile=True)
    notes = fit_fold(plan, data_of(plan), tmp_path)[1].facts["notes"]
    assert any("training.compile: true has no effect" in note for note in notes)


def test_scores_are_computed_without_compiled_layers(tiny_encoder):
    encoder = encoder_of(tiny_encoder("bert"), freeze_layers=1)
    ids, mask = torch.full((2, 7), 5), torch.ones(2, 7, dtype=torch.long)
    calls: list[int] = []

    def record(index: int) -> Any:
        return lambda *args, **options: calls.append(index) or encoder.layers[0][index](*args, **options)  # type: ignore[func-returns-value]

    encoder.compiled_layers = [record(index) for index in range(encoder.depth)]
    encoder.eval()(ids, mask)
    with torch.no_grad():
        encoder.train()(ids, mask)
    assert calls == []
    encoder(ids, mask)
    assert calls == list(range(1, encoder.depth))


@pytest.mark.parametrize(
    ("device", "step_seconds", "is_deterministic", "compiles"),
    [
        ("cuda", 1.0, False, True), ("cuda", 0.01, False, False), ("cpu", 1.0, False, False),
        ("cuda", 1.0, True, False),  # results that must repeat cannot depend on time
    ],
)  # fmt: skip
def test_auto_compiles_where_the_rest_of_a_fit_takes_long(
    monkeypatch, device, step_seconds, is_deterministic, compiles
):
    monkeypatch.setattr(layer_compiler, "COMPILED_DEVICE", "cuda")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: is_deterministic)
    steps = LAST_TIMED + round(MIN_SECONDS_LEFT * 2)
    components: Any = SimpleNamespace(
        config=SimpleNamespace(training=SimpleNamespace(compile="auto")), trains_text=True,
        model=SimpleNamespace(text=SimpleNamespace(adapter=object())),
        features=SimpleNamespace(dataset=SimpleNamespace(lengths=torch.tensor([5]).numpy())),
        execution=SimpleNamespace(device=torch.device(device)),
    )  # fmt: skip
    now = [0.0]
    monkeypatch.setattr(layer_compiler, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    compiled_at = []
    compiler = LayerCompiler(components, steps)
    monkeypatch.setattr(compiler, "_compile", lambda: compiled_at.append(now[0]))
    for number in range(1, steps + 1):
        compiler.before_step(number)
        is_slow = number < FIRST_TIMED or number % 13 == 0  # the first steps, and evaluations between steps
        now[0] += 60.0 if is_slow else step_seconds
    assert bool(compiled_at) == compiles
    assert len(compiled_at) <= 1
