"""What a sweep searches: a function that asks an Optuna trial for values of config keys, one after the other.

A name that it asks for is a dotted config key; what it returns, a dict of keys, is set for all trials alike. Lists
travel as strings (`"256,128"`), since Optuna's choices must be plain.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import BaseTrial

from rainbow_ray.config.keys import inert_keys, known_keys, renamed_keys, with_present_keys
from rainbow_ray.config.load import override, parse_value
from rainbow_ray.config.schema import Config
from rainbow_ray.data.sampling import conflicting_imbalance_settings
from rainbow_ray.tuning import suggestions
from rainbow_ray.tuning.optuna_study import make_study
from rainbow_ray.tuning.suggestions import RecordingTrial, Suggestion
from rainbow_ray.tuning.trial_log import Trial
from rainbow_ray.utils.errors import InputError, did_you_mean

Suggest = Callable[[Any], "dict[str, Any] | None"]
# functions of a phase's module for problems that its main one is not for
OWN_SPACES = {"multilabel": "multi_label", "weak segmentation": "weak"}
DRAWS = 64  # random points that a space is tried on before the sweep
# what a score is measured with: two trials that differ in it cannot be compared
FIXED_KEYS = ("phase", "modalities", "logging.", "reproducibility.", "tune.", "training.metric", "data.", "segments.",
             "calibration.")  # fmt: skip
# text is read anew for these, over the same songs
PREPARED = ("data.text_columns", "model.text_encoder.model_name", "model.text_encoder.max_length",
            "data.window_seconds", "data.window_position", "data.windows_per_stem",
            "model.audio_encoder.model_name")  # fmt: skip
NOT_TRAINED = ("training.workers", "training.device", "training.checkpoint_seconds",
               "training.save_every_n_epochs")  # fmt: skip


@dataclass(frozen=True)
class Space:
    """A define-by-run function, and where it stands."""

    suggest: Suggest
    name: str
    file: str

    def draw(
        self, trial: Any, seen: dict[str, Suggestion] | None = None, former_keys: set[str] | None = None
    ) -> dict[str, Any]:
        """Return the config values of one trial: those asked for, and the constants.

        Args:
            trial: An Optuna trial.
            seen: Suggestions of earlier draws by key, to which this draw's are added; None where there are none.
            former_keys: Set to which former names of keys that the space uses are added; None to discard them.

        Raises:
            InputError: What is wrong with the space, with its lines.
        """
        recorder = RecordingTrial(trial, seen)
        try:
            constants = self.suggest(recorder)
        except (Exception, SystemExit) as error:
            # after a call that could not be answered, an error is likely to come of the value in its place
            raise InputError(self._problems(recorder) or [self._explain(error)]) from error
        if seen is not None:
            seen.update({key: found for key, found in recorder.suggestions.items() if key not in seen})
        if former_keys is not None:
            former_keys |= recorder.former_keys
        if recorder.problems:
            raise InputError(self._problems(recorder))
        if constants is None:
            return recorder.values
        if not isinstance(constants, dict) or not all(isinstance(key, str) for key in constants):
            what = (
                f"returned a {type(constants).__name__}" if not isinstance(constants, dict) else "returned other keys"
            )
            raise InputError(f"space {self.name}: {what}, not a dict of config keys to constants, or nothing")
        if former_keys is not None:
            former_keys |= constants.keys() & renamed_keys().keys()
        constants = with_present_keys(constants)
        if twice := sorted(recorder.values.keys() & constants.keys()):
            raise InputError(f"space {self.name}: it asks for {', '.join(twice)} and returns a constant for it too")
        return {**recorder.values, **constants}

    def _problems(self, recorder: RecordingTrial) -> list[str]:
        unknown = [problem for key in recorder.values for problem in _check_key(self, key)] if recorder.problems else []
        return [*(f"space {self.name}: {problem}" for problem in dict.fromkeys(recorder.problems)), *unknown]

    def objections(self, values: Mapping[str, Any]) -> list[str]:
        """What speaks against the keys and the kinds of drawn values."""
        return [
            problem for key, value in values.items() for problem in (*_check_key(self, key), *_check_kind(key, value))
        ]

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, SyntaxError):
            line = (error.text or "").strip()
            return f"space {self.name}: {error.msg} ({error.filename}, line {error.lineno}: `{line}`)"
        frames = traceback.extract_tb(error.__traceback__)
        ours = (str(Path(__file__)), suggestions.__file__)
        near = Path(self.file).parent
        own = [f for f in frames if f.filename not in ours and Path(f.filename).parent == near] or list(frames)
        last = own[-1]
        line = linecache.getline(last.filename, last.lineno or 0).strip()
        where = f"{last.filename}, line {last.lineno}"
        return f"space {self.name}: {type(error).__name__}: {error} ({where}: `{line}`)"


@dataclass(frozen=True)
class Axes:
    """Keys that a space asks for.

    Attributes:
        distributions: Distributions of each key as JSON; several where they depend on other keys.
        constants: Values as JSON of each key that the space sets for all trials.
        notes: Deprecation warnings: the space uses former names of keys.
    """

    distributions: dict[str, list[str]]
    constants: dict[str, list[str]]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"distributions": self.distributions, "constants": self.constants}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """How a space that was kept (`to_json`) differs from this one."""
        found = []
        for kind, ours in self.to_json().items():
            theirs = with_present_keys(other.get(kind, {}))
            found += [f"{key} is new" for key in ours.keys() - theirs.keys()]
            found += [f"{key} is gone" for key in theirs.keys() - ours.keys()]
            common = ours.keys() & theirs.keys()
            found += [f"{key} was {theirs[key]}, now {ours[key]}" for key in common if ours[key] != theirs[key]]
        return sorted(found)


def stacked_in(space: Space, config: Config, seed: int) -> list[str]:
    """What a space stacks on a sampler in some of its trials."""
    study = make_study("maximize", optuna.samplers.RandomSampler(seed=seed))
    found: dict[str, None] = {}
    for _ in range(DRAWS):
        values = space.draw(study.ask())
        found |= dict.fromkeys(conflicting_imbalance_settings(apply(config, values, "a trial").training, values.keys()))
    return [f"in some trials {line}" for line in found]


def load_space(name: str | None, phase: int, task: str = "") -> Space:
    """`FILE:FUNCTION` or `module:function`. Raises `InputError` when it is not to be had."""
    name = name or f"tune_spaces.phase{phase}:{OWN_SPACES.get(task, 'space')}"
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        raise InputError(f"--space {name!r}: write it as FILE:FUNCTION, for example my_space.py:space")
    module = _from_file(Path(place), name) if place.endswith(".py") else _from_name(place, name)
    suggest = getattr(module, function, None)
    if not callable(suggest):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"--space {name}: there is no function {function!r}{did_you_mean(function, known)}")
    return Space(suggest, name, getattr(module, "__file__", None) or place)


def explore(space: Space, config: Config, check: Callable[[Config], list[str]], seed: int) -> Axes:
    """Try a space on random draws. Raises `InputError` with everything that is wrong with what it asks for.

    `check` says what is wrong with a whole config.
    """
    study = make_study("maximize", optuna.samplers.RandomSampler(seed=seed))
    distributions: dict[str, set[str]] = {}
    constants: dict[str, set[str]] = {}
    problems: dict[str, None] = {}
    seen: dict[str, Suggestion] = {}
    former_keys: set[str] = set()
    for _ in range(DRAWS):
        trial = study.ask()
        try:
            values = space.draw(trial, seen, former_keys)
        except InputError as error:
            problems |= dict.fromkeys(error.problems)
            if not seen:
                break  # it asks for nothing before it fails
            continue
        for key, distribution in trial.distributions.items():
            distributions.setdefault(key, set()).add(distribution_to_json(distribution))
        for key in values.keys() - trial.distributions.keys():
            constants.setdefault(key, set()).add(json.dumps(values[key], default=str))
        wrong = space.objections(values)
        if not wrong:
            try:
                wrong = check(apply(config, values, f"space {space.name}"))
            except InputError as error:
                wrong = error.problems
        problems |= dict.fromkeys(wrong)
    if not distributions and not problems:
        problems[f"space {space.name}: it asks for nothing, so there is nothing to search"] = None
    if problems:
        raise InputError(list(problems)[:20])
    notes = [f"space {space.name}: {key} is deprecated: the key is now {renamed_keys()[key]}" for key in former_keys]
    return Axes(_sorted(distributions), _sorted(constants), tuple(sorted(notes)))


def apply(config: Config, values: Mapping[str, Any], where: str) -> Config:
    """The config of a trial. Raises `InputError` for values that its keys cannot hold."""
    return override(config, {key: _to_config(key, value) for key, value in values.items()}, where)


def default_trial(space: Space, config: Config) -> Trial:
    """The config itself as a trial: the space's constants, and a point of the space if it lies inside."""
    asked = {key: _to_suggested(config.at(key)) for key in known_keys()}
    point = optuna.trial.FixedTrial(asked)
    inside: BaseTrial = point
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a value out of range is only warned of
            values = space.draw(point)
    except InputError:
        inside = make_study("maximize", optuna.samplers.RandomSampler(seed=0)).ask()
        values = space.draw(inside)
    constants = {key: value for key, value in values.items() if key not in inside.distributions}
    if inside is not point:
        return Trial(0, constants)
    distributions = {key: distribution_to_json(one) for key, one in point.distributions.items()}
    return Trial(0, constants, {key: point.params[key] for key in distributions}, distributions)


def _check_key(space: Space, key: str) -> list[str]:
    if key in NOT_TRAINED or key in inert_keys():
        return [f"space {space.name}: {key} does not change the model; set it for the whole sweep"]
    if key not in known_keys():
        return [f"space {space.name}: unknown axis {key!r}{did_you_mean(key, known_keys())}"]
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
    """A suggested value as the config holds it."""
    if isinstance(value, str) and isinstance(Config().at(key) if key in known_keys() else None, list):
        return [parse_value(part.strip()) for part in value.split(",") if part.strip()]
    return value


def _to_suggested(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _sorted(found: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {key: sorted(found[key]) for key in sorted(found)}


def _from_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"--space {name}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # what stands beside it can be imported
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
        raise InputError(f"--space {name}: there is no module {place!r} ({error})") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"--space {name}: importing {place!r} failed: {type(error).__name__}: {error}") from error
