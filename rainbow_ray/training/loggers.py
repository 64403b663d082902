"""Loggers of metrics: a JSON Lines file per fit, which the driver forwards to the console, W&B and TensorBoard.

A record is a flat object: `fold` (null for the refit), `epoch`, `step`, `split`, `seconds`, then metrics. The fit
appends to its own file, wherever it runs; the driver's `LogForwarder` passes new lines on.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from typing_extensions import override

from rainbow_ray.config.schema import Config
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.io import atomic_write

Record = dict[str, Any]
RecordKey = tuple[Any, ...]
RESULT = "result.npz"  # in the folder of a fit that has ended
POLL_SECONDS = 0.3
KEY_FIELDS = ("fold", "epoch", "step", "split")


class MetricLogger(Protocol):
    """Receives the metrics of one fit."""

    def log(self, record: Record) -> None:
        """Log a record.

        Args:
            record: Metrics of one step or epoch.
        """

    def truncate_after(self, step: int) -> None:
        """Remove the records after a step, because the fit will log them again.

        Args:
            step: The last step to keep.
        """


class NullLogger(MetricLogger):
    """Discards all records: the logger of workers other than the main one."""

    @override
    def log(self, record: Record) -> None:
        pass

    @override
    def truncate_after(self, step: int) -> None:
        pass


class JsonLinesLogger(MetricLogger):
    """Appends records to a file, one line each, without buffering.

    Args:
        path: The file; its folder is created.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    @override
    def log(self, record: Record) -> None:
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    @override
    def truncate_after(self, step: int) -> None:
        if self.path.exists():
            records = [record for record in read_records(self.path) if record["step"] <= step]
            text = "".join(json.dumps(record) + "\n" for record in records)
            atomic_write(self.path, lambda path: path.write_text(text, encoding="utf-8"))


def read_records(path: Path) -> list[Record]:
    """Read the records of a file.

    Args:
        path: A JSON Lines file. A killed process may have left half a line, a power cut arbitrary bytes.

    Returns:
        The records before the first line that is not one.
    """
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


def record_key(record: Record) -> RecordKey:
    """Return what identifies a record in its run.

    Args:
        record: The record.

    Returns:
        Its fold, epoch, step and split.
    """
    return tuple(record[name] for name in KEY_FIELDS)


class LogForwarder:
    """Forwards new records of the files of several fits, each record once.

    Args:
        files: `metrics.jsonl` of each fit; a file need not exist yet.
        sinks: Each is called with every new record.
        on_end: Called with the fold of each fit that has ended, after its last record.
    """

    def __init__(
        self, files: Iterable[Path], sinks: Iterable[Callable[[Record], None]],
        on_end: Callable[[int | None], None] | None = None,
    ) -> None:  # fmt: skip
        self.sinks, self.on_end = list(sinks), on_end
        self._positions = dict.fromkeys(files, (0, 0))  # inode, and position of the next line
        self._forwarded: set[RecordKey] = set()
        self._running: dict[Path, int | None] = {}  # folds of the fits that have not ended

    @contextlib.contextmanager
    def follow(self) -> Iterator[None]:
        """Forward new records in a thread while the body of a `with` statement runs.

        Yields:
            Nothing. After the body, all records have been forwarded.
        """
        stopped = threading.Event()

        def forward() -> None:
            while not stopped.wait(POLL_SECONDS):
                self.poll()

        thread = threading.Thread(target=forward, name="log-forwarder", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            self.poll()

    def poll(self) -> None:
        """Forward the records that are new since the last call."""
        for path in self._positions:
            if not path.exists():
                continue
            has_ended = path.with_name(RESULT).exists()  # checked before reading: no record follows the result
            for line in self._new_lines(path):
                self._forward(path, json.loads(line))
            if has_ended and path in self._running:
                fold = self._running.pop(path)
                if self.on_end is not None:
                    self.on_end(fold)

    def _new_lines(self, path: Path) -> list[bytes]:
        """Return the complete lines that were not read before."""
        inode, position = self._positions[path]
        with path.open("rb") as file:
            current_inode = os.fstat(file.fileno()).st_ino
            # a fit that resumed has truncated its records: there is a new file under the same name
            position = position if current_inode == inode else 0
            file.seek(position)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._positions[path] = (current_inode, position + len(complete))
        return complete.splitlines()

    def _forward(self, path: Path, record: Record) -> None:
        if record_key(record) not in self._forwarded:
            self._running[path] = record["fold"]
            self._forwarded.add(record_key(record))
            for sink in self.sinks:
                sink(record)


class WandbLogger:
    """Sends records to Weights & Biases, as one W&B run per run.

    The id of the W&B run is the name of the run, so that a resumed run continues it.

    Args:
        config: Config of the run.
        name: Name of the run.
        folder: Folder of the run; without an API key, W&B logs offline to its folder `wandb/`.
        sent: Keys of records that an earlier start of the run has sent.

    Raises:
        InputError: W&B refuses the run.
    """

    def __init__(self, config: Config, name: str, folder: Path, sent: Collection[RecordKey]) -> None:
        import wandb

        self.sent = sent
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
        """Log a record, unless an earlier start has logged it.

        Args:
            record: The record.
        """
        if record_key(record) in self.sent:
            return
        prefix = _prefix(record)
        values = {f"{prefix}/{name}": value for name, value in _numbers(record).items()}
        self.run.log({**values, f"{prefix}/epoch": record["epoch"], f"{prefix}/step": record["step"]})

    def close(self, summary: dict[str, Any]) -> None:
        """End the W&B run.

        Args:
            summary: Values for the summary of the W&B run.
        """
        self.run.summary.update(summary)
        self.run.finish()


class TensorBoardLogger:
    """Writes records to TensorBoard event files.

    Args:
        folder: Folder of the run; files are written to its folder `tensorboard/`.
        sent: Keys of records that an earlier start of the run has written.
    """

    def __init__(self, folder: Path, sent: Collection[RecordKey]) -> None:
        from tensorboardX import SummaryWriter

        self.sent = sent
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, record: Record) -> None:
        """Log a record, unless an earlier start has logged it.

        Args:
            record: The record.
        """
        if record_key(record) in self.sent:
            return
        for name, value in _numbers(record).items():
            self.writer.add_scalar(f"{_prefix(record)}/{name}", value, record["step"])

    def close(self, summary: dict[str, Any]) -> None:  # noqa: ARG002
        """Close the event file.

        Args:
            summary: Not written.
        """
        self.writer.close()


def _prefix(record: Record) -> str:
    fold = "refit" if record["fold"] is None else f"fold-{record['fold']}"
    return f"{fold}/{record['split']}"


def _numbers(record: Record) -> dict[str, float]:
    return {
        name: value
        for name, value in record.items()
        if name not in (*KEY_FIELDS, "seconds") and isinstance(value, int | float)
    }


def wandb_notes(config: Config) -> list[str]:
    """Return notes for the user before a run is logged to Weights & Biases.

    Args:
        config: Config of the run.

    Returns:
        A note that the run is logged offline where this machine has no API key; otherwise nothing.
    """
    if not config.logging.wandb.enabled or has_wandb_key() or wandb_mode() != "offline":
        return []
    return [
        "W&B: no API key (WANDB_API_KEY or ~/.netrc), so the run is logged offline, to its folder wandb/; send it later"
        " with `wandb login` and `wandb sync`"
    ]


def wandb_mode() -> Literal["offline"] | None:
    """Return the mode for `wandb.init`.

    Returns:
        `offline` without an API key; None leaves the mode to WANDB_MODE and to the default of W&B, which needs a key.
    """
    if os.environ.get("WANDB_MODE"):
        return None
    return None if has_wandb_key() else "offline"


@contextlib.contextmanager
def wandb_errors() -> Iterator[None]:
    """Translate errors of W&B in the body of a `with` statement.

    Yields:
        Nothing.

    Raises:
        InputError: W&B refuses the run, because an API key is missing or wrong.
    """
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        raise InputError(
            f"--wandb: W&B refuses the run ({first_line(error)}); check WANDB_API_KEY or `wandb login`, or set"
            " WANDB_MODE=offline"
        ) from error


def has_wandb_key() -> bool:
    """Return whether this machine has an API key of Weights & Biases.

    Returns:
        True if WANDB_API_KEY is set or `~/.netrc` names W&B.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="ignore")
