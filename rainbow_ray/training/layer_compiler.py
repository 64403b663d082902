"""Compilation of the trained layers of a text encoder with `torch.compile`, in fits that are long enough for it.

Layers are compiled one at a time, so that all of them share a graph, which is compiled in seconds rather than minutes.
Scores are computed without compilation, so that held-out scores and predictions agree to the last digit.

Reference:
    Ansel et al. 2024, "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
    Compilation", section 4 (graphs of dynamic shapes).
"""

from __future__ import annotations

import os
import time
import warnings

import torch

from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.training.components import FitComponents
from rainbow_ray.utils.cache_dir import make_cache_dir

FIRST_TIMED, LAST_TIMED = 10, 40  # steps whose time forecasts the rest: the first ones allocate memory
# Compiling takes about a minute. In this time left, a saving of a tenth makes up for it.
MIN_SECONDS_LEFT = 600.0
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
        text = components.model.text
        if not components.trains_text or text is None or text.adapter is None:
            self._is_decided = True
            if self._requested is True:
                self.notes.append("training.compile: true has no effect, because no layer of a text encoder is trained")

    def before_step(self, number: int) -> None:
        """Compile the layers if it is time to do so.

        Args:
            number: Number of the step that comes next, from 1.
        """
        if self._is_decided:
            return
        device = self._components.execution.device
        if self._requested is True:
            self._is_decided = True
            self._compile()
            return
        if device.type != "cuda":  # on CPUs, compiled layers took 0.95 to 1.04 times as long
            self._is_decided = True
            return
        self._timed.append(time.perf_counter())
        if len(self._timed) <= LAST_TIMED:
            return
        self._is_decided = True
        step_seconds = (self._timed[LAST_TIMED] - self._timed[FIRST_TIMED]) / (LAST_TIMED - FIRST_TIMED)
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
            # dropout must draw the same masks after a fit is resumed, whether or not it compiles again
            with torch.random.fork_rng(devices), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PyTorch, about its own code
                text.compile_layers()
                for length in sorted({SHORT_LENGTH, max(SHORT_LENGTH, self._longest)}):  # both kinds of graphs
                    self._train_once(text, length)
        except Exception as error:  # of any backend: compilers and drivers raise errors of their own
            text.compiled_layers = None
            reason = str(error).strip().partition("\n")[0]
            self.notes.append(f"training.compile: the layers are not compiled, because that failed: {reason}")
            return
        seconds = time.perf_counter() - start
        self.notes.append(f"training.compile: the trained layers were compiled, in {seconds:.0f} s")

    def _train_once(self, text: TextEncoder, length: int) -> None:
        """Run a forward and a backward pass of two texts; gradients of the fit stay as they are."""
        execution = self._components.execution
        ids = torch.ones(2, length, dtype=torch.long, device=execution.device)
        mask = torch.ones_like(ids)
        mask[1, length // 2 :] = 0
        with execution.autocast():
            hidden = text(ids, mask)
        trained = [parameter for parameter in text.parameters() if parameter.requires_grad]
        torch.autograd.grad(hidden.float().sum(), trained, allow_unused=True)
