"""The search space of a sweep: a function that suggests values of config keys with an Optuna trial (define-by-run).

The name of each suggestion is a dotted config key. The dict that the function returns holds constants, which are set
for all trials. Lists are written as text (`"256,128"`), since Optuna's choices must be plain values.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import BaseTrial

from rainbow_ray.config.keys import known_keys
from rainbow_ray.config.load import override, parse_value
from rainbow_ray.config.renamed_keys import inert_keys, present_json, with_present_keys
from rainbow_ray.config.schema import Config
from rainbow_ray.config.unknown_keys import explain_unknown_key
from rainbow_ray.data.sampling import conflicting_imbalance_settings
from rainbow_ray.tuning import suggestions
from rainbow_ray.tuning.optuna_study import make_study
from rainbow_ray.tuning.suggestions import RecordingTrial, Suggestion
from rainbow_ray.tuning.trial_log import Trial
from rainbow_ray.utils.errors import InputError, did_you_mean

Suggest = Callable[[Any], "dict[str, Any] | None"]
N_DRAWS = 64  # random points at which a space is checked before the sweep
# keys that decide how a score is measured: trials that differ in one of them cannot be compared
FIXED_KEYS = ("phase", "modalities", "logging.", "reproducibility.", "tune.", "training.metric", "data.", "segments.",
             "calibration.")  # fmt: skip
# keys under these that a space may vary: the same songs are read again with other inputs
PREPARED = ("data.text_columns", "model.text_encoder.model_name", "model.text_encoder.max_length",
            "data.window_seconds", "data.window_position", "data.windows_per_stem",
            "model.audio_encoder.model_name", "model.audio_encoder.descriptors",
            "model.midi_encoder.descriptors")  # fmt: skip
NOT_TRAINED = ("training.workers", "training.device", "training.checkpoint_seconds",
               "training.save_every_n_epochs", "training.combine")  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """A call of a space's function with a trial.

    Attributes:
        values: Config values of the trial: suggested values and constants.
        suggestions: Suggestion of each suggested key; empty if the function failed.
        notes: Deprecation warnings: former names of keys and values that the function uses.
        problems: What is wrong with the space. The values are meaningful only without problems.
    """

    values: dict[str, Any]
    suggestions: Mapping[str, Suggestion]
    notes: Set[str]
    problems: list[str]


@dataclass(frozen=True)
class Space:
    """A define-by-run function.

    Attributes:
        suggest: Function that takes an Optuna trial and returns constants, or None.
        name: Its name, as `FILE:FUNCTION` or `module:function`.
        file: Path of its source file.
    """

    suggest: Suggest
    name: str
    file: str

    def draw(self, trial: Any) -> dict[str, Any]:
        """Return the config values of one trial: suggested values and constants.

        Args:
            trial: An Optuna trial.

        Returns:
            Values by config key.

        Raises:
            InputError: The space is invalid; the messages name its lines.
        """
        draw = self.record_draw(trial)
        if draw.problems:
            raise InputError(draw.problems)
        return draw.values

    def record_draw(self, trial: Any, earlier: Mapping[str, Suggestion] | None = None) -> Draw:
        """Call the function with a trial.

        Args:
            trial: An Optuna trial.
            earlier: Suggestions of earlier draws by key, which this draw's must be compatible with, or None.

        Returns:
            The values, and what the function did. An invalid space has problems, whose messages name its lines.
        """
        recorder = RecordingTrial(trial, earlier)
        try:
            constants = self.suggest(recorder)
        except (Exception, SystemExit) as error:
            # after a call that could not be answered, an error is likely to come of the value in its place
            return Draw({}, {}, recorder.notes, self._problems(recorder) or [self._explain(error)])
        if constants is not None and not recorder.problems:
            if isinstance(constants, dict) and all(isinstance(key, str) for key in constants):
                recorder.record_constants(constants)
            else:
                is_dict = isinstance(constants, dict)
                kind = "a dict whose keys are not all strings" if is_dict else f"a {type(constants).__name__}"
                recorder.problems.append(f"it returned {kind}, not a dict from config keys to constants")
        values = {**recorder.values, **recorder.constants}
        return Draw(values, recorder.suggestions, recorder.notes, self._problems(recorder))

    def _problems(self, recorder: RecordingTrial) -> list[str]:
        unknown = [problem for key in recorder.values for problem in _check_key(self, key)] if recorder.problems else []
        return [*(f"space {self.name}: {problem}" for problem in dict.fromkeys(recorder.problems)), *unknown]

    def check_values(self, values: Mapping[str, Any]) -> list[str]:
        """Return problems with the keys and the types of drawn values.

        Args:
            values: Values by config key.

        Returns:
            Messages.
        """
        return [
            problem for key, value in values.items() for problem in (*_check_key(self, key), *_check_kind(key, value))
        ]

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, SyntaxError):
            line = (error.text or "").strip()
            return f"space {self.name}: {error.msg} ({error.filename}, line {error.lineno}: `{line}`)"
        frames = traceback.extract_tb(error.__traceback__)
        internal, folder = (str(Path(__file__)), suggestions.__file__), Path(self.file).parent
        in_space = [f for f in frames if f.filename not in internal and Path(f.filename).parent == folder]
        last = (in_space or list(frames))[-1]
        line = linecache.getline(last.filename, last.lineno or 0).strip()
        location = f"{last.filename}, line {last.lineno}"
        return f"space {self.name}: {type(error).__name__}: {error} ({location}: `{line}`)"


@dataclass(frozen=True)
class SearchParameters:
    """Keys that a space suggests or sets.

    Attributes:
        distributions: Distributions of each key as JSON; several where they depend on other keys.
        constants: Values as JSON of each key that the space sets for all trials.
        notes: Deprecation warnings: the space uses former names of keys or values.
    """

    distributions: dict[str, list[str]]
    constants: dict[str, list[str]]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of `space.json`.

        Returns:
            Distributions and constants by key.
        """
        return {"distributions": self.distributions, "constants": self.constants}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return the differences to the space of an earlier start.

        Args:
            other: What `to_json` returned then; keys and values may have former names.

        Returns:
            Messages, sorted.
        """
        messages = []
        for kind, present in self.to_json().items():
            values = with_present_keys(other.get(kind, {}))
            saved = {key: sorted(present_json(key, text) for text in texts) for key, texts in values.items()}
            messages += [f"{key} is new" for key in present.keys() - saved.keys()]
            messages += [f"{key} was removed" for key in saved.keys() - present.keys()]
            common = present.keys() & saved.keys()
            messages += [f"{key} was {saved[key]}, now {present[key]}" for key in common if present[key] != saved[key]]
        return sorted(messages)


def find_conflicting_settings(space: Space, config: Config, seed: int) -> list[str]:
    """Return warnings about settings against imbalance that a space combines in some trials.

    Args:
        space: The search space.
        config: Config that values are applied to.
        seed: Seed of the random points.

    Returns:
        Messages.
    """
    study = make_study("maximize", optuna.samplers.RandomSampler(seed=seed))
    messages: dict[str, None] = {}
    for _ in range(N_DRAWS):
        values = space.draw(study.ask())
        messages |= dict.fromkeys(
            conflicting_imbalance_settings(apply_values(config, values, "a trial").training, values.keys())
        )
    return [f"in some trials {line}" for line in messages]


def load_space(name: str | None, phase: int, default: str = "space") -> Space:
    """Import a search space.

    Args:
        name: `FILE:FUNCTION` or `module:function`; None for the default space of the phase.
        phase: The phase.
        default: Function of the module of the phase that suits the task, see `Task.search_space`.

    Returns:
        The space.

    Raises:
        InputError: The space cannot be imported.
    """
    name = name or f"tune_spaces.phase{phase}:{default}"
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        raise InputError(f"--space {name!r}: write it as FILE:FUNCTION, for example my_space.py:space")
    module = _from_file(Path(place), name) if place.endswith(".py") else _from_name(place, name)
    suggest = getattr(module, function, None)
    if not callable(suggest):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"--space {name}: it has no function {function!r}{did_you_mean(function, functions)}")
    return Space(suggest, name, getattr(module, "__file__", None) or place)


def explore(space: Space, config: Config, check: Callable[[Config], list[str]], seed: int) -> SearchParameters:
    """Check a space at random points.

    Args:
        space: The search space.
        config: Config that values are applied to.
        check: Returns problems with a config.
        seed: Seed of the random points.

    Returns:
        The keys that the space suggests and sets.

    Raises:
        InputError: The space is invalid; it has up to 20 messages.
    """
    study = make_study("maximize", optuna.samplers.RandomSampler(seed=seed))
    distributions: dict[str, set[str]] = {}
    constants: dict[str, set[str]] = {}
    problems: dict[str, None] = {}
    seen: dict[str, Suggestion] = {}
    notes: set[str] = set()
    for _ in range(N_DRAWS):
        trial = study.ask()
        draw = space.record_draw(trial, seen)
        seen = {**draw.suggestions, **seen}
        notes |= draw.notes
        if draw.problems:
            problems |= dict.fromkeys(draw.problems)
            if not seen:
                break  # it fails before its first suggestion
            continue
        for key, distribution in trial.distributions.items():
            distributions.setdefault(key, set()).add(distribution_to_json(distribution))
        for key in draw.values.keys() - trial.distributions.keys():
            constants.setdefault(key, set()).add(json.dumps(draw.values[key], default=str))
        messages = space.check_values(draw.values)
        if not messages:
            try:
                messages = check(apply_values(config, draw.values, f"space {space.name}"))
            except InputError as error:
                messages = error.problems
        problems |= dict.fromkeys(messages)
    if not distributions and not problems:
        problems[f"space {space.name}: it suggests no value, so there is nothing to search"] = None
    if problems:
        raise InputError(list(problems)[:20])
    lines = tuple(f"space {space.name}: {note}" for note in sorted(notes))
    return SearchParameters(_sorted(distributions), _sorted(constants), lines)


def apply_values(config: Config, values: Mapping[str, Any], source: str) -> Config:
    """Return the config of a trial.

    Args:
        config: Config of the sweep.
        values: Values by config key, as a space draws them.
        source: Name of the trial or space, for messages.

    Returns:
        A copy of the config.

    Raises:
        InputError: A value is invalid for its key.
    """
    return override(config, {key: _to_config(key, value) for key, value in values.items()}, source)


def default_trial(space: Space, config: Config) -> Trial:
    """Return the config itself as trial 0: the space's constants, and a point of the space if the config is one.

    Args:
        space: The search space.
        config: Config of the sweep.

    Returns:
        The trial.
    """
    current = {key: _to_suggested(config.at(key)) for key in known_keys()}
    point = optuna.trial.FixedTrial(current)
    inside: BaseTrial = point
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna only warns about a value out of range
            values = space.draw(point)
    except InputError:
        inside = make_study("maximize", optuna.samplers.RandomSampler(seed=0)).ask()
        values = space.draw(inside)
    constants = {key: value for key, value in values.items() if key not in inside.distributions}
    if inside is not point:
        return Trial(0, constants)
    distributions = {key: distribution_to_json(value) for key, value in point.distributions.items()}
    return Trial(0, constants, {key: point.params[key] for key in distributions}, distributions)


def _check_key(space: Space, key: str) -> list[str]:
    if key in NOT_TRAINED or key in inert_keys():
        return [f"space {space.name}: {key} does not change the model of a trial; set it for the whole sweep"]
    if key not in known_keys():
        return [f"space {space.name}: {key}: {explain_unknown_key(key)}"]
    if key in PREPARED:
        return []
    if any(key == name or (name.endswith(".") and key.startswith(name)) for name in FIXED_KEYS):
        return [f"space {space.name}: {key} changes what a score means, so trials could not be compared; set it for the"
                " whole sweep"]  # fmt: skip
    return []


def _check_kind(key: str, value: Any) -> list[str]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return [f"{key}: {value!r} is a {type(value).__name__}, not a plain number, text, boolean or list of these"]
    return []


def _to_config(key: str, value: Any) -> Any:
    """Return a suggested value as the config has it."""
    if isinstance(value, str) and isinstance(Config().at(key) if key in known_keys() else None, list):
        return [parse_value(part.strip()) for part in value.split(",") if part.strip()]
    return value


def _to_suggested(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _sorted(values: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {key: sorted(values[key]) for key in sorted(values)}


def _from_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"--space {name}: the file {path} does not exist")
    spec = importlib.util.spec_from_file_location(f"_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # modules in the same folder can be imported
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(Space(lambda _: None, name, str(path))._explain(error)) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _from_name(place: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise InputError(f"--space {name}: no module {place!r} exists ({error})") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"--space {name}: importing {place!r} failed: {type(error).__name__}: {error}") from error
