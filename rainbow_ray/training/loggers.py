"""Where the records of a fit go. The file is the truth; the terminal, W&B and TensorBoard mirror it.

A record is a flat object: `fold` (null for the refit), `epoch`, `step`, `split`, `seconds`, then metrics. The fit
itself appends to its own file, wherever it runs; the driver's `LogForwarder` copies new lines on.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from rainbow_ray.config.schema import Config
from rainbow_ray.utils.errors import InputError, first_line

Record = dict[str, Any]
RESULT = "result.npz"  # beside the records of a fit that has ended
Place = tuple[Any, ...]


class MetricLogger(Protocol):
    def log(self, record: Record) -> None: ...

    def truncate_after(self, step: int) -> None:
        """Forget what was logged after `step`: it will be logged again."""


class NullLogger:
    """For workers that do not lead."""

    def log(self, record: Record) -> None:
        pass

    def truncate_after(self, step: int) -> None:
        pass


class JsonLinesLogger:
    """Append records to a file, one line each, handed to the system at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def log(self, record: Record) -> None:
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def truncate_after(self, step: int) -> None:
        """Forget what lies after `step`: it will be logged again."""
        from rainbow_ray.utils.io import atomic_write

        if self.path.exists():
            kept = [record for record in read_records(self.path) if record["step"] <= step]
            text = "".join(json.dumps(record) + "\n" for record in kept)
            atomic_write(self.path, lambda path: path.write_text(text, encoding="utf-8"))


def read_records(path: Path) -> list[Record]:
    """The records of a file, up to a line that is none: a killed process leaves half a line, a power cut worse."""
    records: list[Record] = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            break
        records.append(record)
    return records


def record_key(record: Record) -> Place:
    """What is unique in a run's records."""
    return record["fold"], record["epoch"], record["step"], record["split"]


class LogForwarder:
    """Follows the files of several fits in the driver.

    Args:
        files: `metrics.jsonl` of each fit.
        sinks: Each is called with every new record.
        on_end: Called with the fold of each fit that has ended, after its last record.
    """

    def __init__(
        self, files: Iterable[Path], sinks: Iterable[Callable[[Record], None]],
        on_end: Callable[[int | None], None] | None = None,
    ) -> None:  # fmt: skip
        self.read = dict.fromkeys(files, (0, 0))  # inode and position of each
        self.seen: set[Place] = set()
        self.sinks = list(sinks)
        self.on_end = on_end
        self.folds: dict[Path, int | None] = {}  # of fits that have not ended

    def poll(self) -> None:
        for path, (inode, position) in self.read.items():
            if not path.exists():
                continue
            has_ended = path.with_name(RESULT).exists()  # asked first: no record follows it
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_ino
                # a fit that went on from a checkpoint has cut its file back: a new file under the same name
                position = position if found == inode else 0
                file.seek(position)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self.read[path] = (found, position + len(whole))
            for line in whole.splitlines():
                self._hand_on(path, json.loads(line))
            if has_ended and path in self.folds:
                fold = self.folds.pop(path)
                if self.on_end is not None:
                    self.on_end(fold)

    def _hand_on(self, path: Path, record: Record) -> None:
        if record_key(record) not in self.seen:
            self.folds[path] = record["fold"]
            self.seen.add(record_key(record))
            for sink in self.sinks:
                sink(record)


class WandbLogger:
    """Mirror to Weights & Biases: one W&B run a run of ours, under an id of our own, so that resuming continues it."""

    def __init__(self, config: Config, name: str, folder: Path, sent: Collection[Place]) -> None:
        import wandb

        self.sent = sent  # by an earlier start of the same run
        options = config.logging.wandb
        with wandb_errors():
            self.run = wandb.init(
                project=options.project,
                entity=options.entity,
                name=options.name or name,
                id=name,
                group=name,
                dir=str(folder),
                resume="allow",
                mode=wandb_mode(),
                config=config.model_dump(),
                settings=wandb.Settings(silent=True),
            )

    def __call__(self, record: Record) -> None:
        if record_key(record) in self.sent:
            return
        prefix = _prefix(record)
        values = {f"{prefix}/{k}": v for k, v in _numbers(record).items()}
        self.run.log({**values, f"{prefix}/epoch": record["epoch"], f"{prefix}/step": record["step"]})

    def close(self, summary: dict[str, Any]) -> None:
        self.run.summary.update(summary)
        self.run.finish()


class TensorBoardLogger:
    """Mirror to TensorBoard event files."""

    def __init__(self, folder: Path, sent: Collection[Place]) -> None:
        from tensorboardX import SummaryWriter

        self.sent = sent  # by an earlier start of the same run
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, record: Record) -> None:
        if record_key(record) in self.sent:
            return
        for name, value in _numbers(record).items():
            self.writer.add_scalar(f"{_prefix(record)}/{name}", value, record["step"])

    def close(self, summary: dict[str, Any]) -> None:  # noqa: ARG002
        self.writer.close()


def _prefix(record: Record) -> str:
    fold = "refit" if record["fold"] is None else f"fold-{record['fold']}"
    return f"{fold}/{record['split']}"


def _numbers(record: Record) -> dict[str, float]:
    places = ("fold", "epoch", "step", "split", "seconds")
    return {k: v for k, v in record.items() if k not in places and isinstance(v, int | float)}


def wandb_notes(config: Config) -> list[str]:
    """Return what is to be said before a run is mirrored to Weights & Biases: that it is kept offline without a key."""
    if not config.logging.wandb.enabled or knows_wandb() or wandb_mode() != "offline":
        return []
    return ["W&B: no key (WANDB_API_KEY or ~/.netrc), so the run is logged offline, to its folder wandb/; `wandb login`"
            " and `wandb sync` send it later"]  # fmt: skip


def wandb_mode() -> Literal["offline"] | None:
    """Return the mode for `wandb.init`; None leaves it to WANDB_MODE and W&B's own default, which needs a key."""
    if os.environ.get("WANDB_MODE"):
        return None
    return None if knows_wandb() else "offline"


@contextlib.contextmanager
def wandb_errors() -> Iterator[None]:
    """Raise `InputError` where W&B refuses a run: for want of a key, or because of a wrong one."""
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        raise InputError(f"--wandb: W&B refuses the run ({first_line(error)}); check WANDB_API_KEY or `wandb login`, or"
                         " set WANDB_MODE=offline") from error  # fmt: skip


def knows_wandb() -> bool:
    """Whether this machine has a key of Weights & Biases."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="ignore")
