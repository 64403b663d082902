"""Compilation of the trained layers of a text encoder with `torch.compile`, in fits that are long enough for it.

Layers are compiled one at a time, so that all of them share a graph, which is compiled in seconds rather than minutes.
Scores are computed without compilation, so that held-out scores and predictions agree to the last digit.

Reference:
    Ansel et al. 2024, "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
    Compilation", section 4 (graphs of dynamic shapes).
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
import warnings

import torch

from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.training.components import FitComponents
from rainbow_ray.utils.cache_dir import make_cache_dir

FIRST_TIMED, LAST_TIMED = 10, 40  # steps whose time forecasts the rest: the first ones allocate memory
# Compiling takes about a minute. In this time left, a saving of a tenth makes up for it.
MIN_SECONDS_LEFT = 600.0
# On CPUs, compiled layers took 0.95 to 1.04 times as long as others, and processes that ran them with PyTorch 2.13
# crashed (in the backward pass of an indexing, and once in a long test run).
COMPILED_DEVICE = "cuda"
BACKEND = "inductor"
MAX_GRAPHS = 64  # of one layer's code in a process
SHORT_LENGTH = 16  # tokens of the first texts that are run through compiled layers
CACHE_FOLDER = "compile"  # in the user's cache folder: PyTorch's default is a folder that other users could make
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class LayerCompiler:
    """Decides when the layers of one fit are compiled, and compiles them.

    Args:
        components: Model and config of the fit.
        steps: Number of steps of the fit.

    Attributes:
        notes: Messages to the user.
    """

    def __init__(self, components: FitComponents, steps: int) -> None:
        self._components, self._steps = components, steps
        self._requested = components.config.training.compile
        self._is_decided = self._requested is False
        self._timed: list[float] = []
        self.notes: list[str] = []
        self._longest = int(components.features.dataset.lengths.max(initial=1))
        reason = self._reason_against()
        if reason is not None:
            self._is_decided = True
            if self._requested is True:
                self.notes.append(f"training.compile: true has no effect, because {reason}")

    def _reason_against(self) -> str | None:
        """Return why no layer can be compiled, as a clause; None if some can."""
        text, device = self._components.model.text, self._components.execution.device
        if device.type != COMPILED_DEVICE:
            return f"layers are compiled on GPUs alone, and the model is on the {device.type}"
        if text is None or not self._components.trains_text:
            return "no layer of a text encoder is trained"
        if text.adapter is None:
            return f"the layers of {text.body.config.model_type!r} encoders run as a whole"
        return None

    def before_step(self, number: int) -> None:
        """Compile the layers if it is time to do so.

        Args:
            number: Number of the step that comes next, from 1.
        """
        if self._is_decided:
            return
        if self._requested is True:
            self._is_decided = True
            self._compile()
            return
        if torch.are_deterministic_algorithms_enabled():  # results that must repeat cannot depend on time
            self._is_decided = True
            return
        self._timed.append(time.perf_counter())
        if len(self._timed) <= LAST_TIMED:
            return
        self._is_decided = True
        # the median leaves out evaluations and checkpoints between two steps
        step_seconds = statistics.median(b - a for a, b in itertools.pairwise(self._timed[FIRST_TIMED:]))
        if step_seconds * (self._steps - number) >= MIN_SECONDS_LEFT:
            self._compile()

    def _compile(self) -> None:
        """Compile the layers, and run them once on a small batch; where that fails, they stay as they are."""
        os.environ.setdefault(CACHE_VARIABLE, str(make_cache_dir(CACHE_FOLDER)))
        execution, text = self._components.execution, self._components.model.text
        assert text is not None
        devices = [execution.device] if execution.device.type == "cuda" else []
        start = time.perf_counter()
        try:
            # Compiling draws random numbers, which the fit must not miss. Compiled dropout draws others than before.
            with torch.random.fork_rng(devices), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PyTorch, about its own code
                _allow_many_graphs()
                text.compile_layers(BACKEND)
                for length in sorted({SHORT_LENGTH, max(SHORT_LENGTH, self._longest)}):  # both kinds of graphs
                    self._train_once(text, length)
        except Exception as error:  # of any backend: compilers and drivers raise errors of their own
            text.compiled_layers = None
            reason = str(error).strip().partition("\n")[0]
            self.notes.append(f"training.compile: the layers are not compiled, because that failed: {reason}")
            return
        # What else fails to compile runs as it is: a fit does not end for that.
        torch._dynamo.config.suppress_errors = True
        seconds = time.perf_counter() - start
        self.notes.append(f"training.compile: the trained layers were compiled, in {seconds:.0f} s")

    def _train_once(self, text: TextEncoder, length: int) -> None:
        """Run a forward and a backward pass of two texts; gradients of the fit stay as they are."""
        execution = self._components.execution
        ids = torch.ones(2, length, dtype=torch.long, device=execution.device)
        mask = torch.ones_like(ids)
        mask[1, length // 2 :] = 0
        states = None
        if self._components.features.hidden_states is not None:
            with torch.no_grad(), execution.autocast():
                states = text.states(ids, mask, text.constant_depth)
        with execution.autocast():
            hidden = text(ids, mask, states)
        trained = [parameter for parameter in text.parameters() if parameter.requires_grad]
        torch.autograd.grad(hidden.float().sum(), trained, allow_unused=True)


def _allow_many_graphs() -> None:
    """Let fits of one process, which may differ in dropout and precision, have graphs of their own."""
    import torch._dynamo

    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before PyTorch 2.7
    setattr(config, name, max(MAX_GRAPHS, getattr(config, name)))
