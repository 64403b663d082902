"""Jobs on the head: `python -m cluster.pod.job submit|run|follow|list …`. Records and logs are on the volume.

WORKSPACE/clusters/MARKER/jobs/ID/job.json     command, state, exit code, heartbeat
WORKSPACE/clusters/MARKER/jobs/ID/log.txt      output
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 10.0
START_SECONDS = 600.0  # within which Ray must start a job
LOST_SECONDS = 90.0  # without a heartbeat after which a job counts as dead
RUNNING, ENDED = "running", "ended"
FINISH = "FINISH"  # file next to the jobs that tells the idle monitor to stop the cluster


def jobs_folder() -> Path:
    """Return the folder of this cluster's jobs on the volume.

    Returns:
        The folder.
    """
    marker = os.environ.get("RRAY_CLUSTER", "none")
    return Path(os.environ.get("RRAY_WORKSPACE", "/workspace")) / "clusters" / marker / "jobs"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file atomically.

    Args:
        path: File to write.
        document: JSON object.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1))
    temporary.replace(path)


def read_jobs(folder: Path | None = None) -> list[dict[str, Any]]:
    """Read the records of all jobs, oldest first; damaged files are skipped.

    Args:
        folder: Folder of jobs; None for `jobs_folder()`.

    Returns:
        Job records.
    """
    jobs = []
    for path in sorted((folder or jobs_folder()).glob("*/job.json")):
        try:
            jobs.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return jobs


def is_running(job: dict[str, Any], now: float) -> bool:
    """Return whether a job runs: its state is running and its heartbeat is recent.

    Args:
        job: Job record.
        now: Seconds since 1970.

    Returns:
        True for a running job.
    """
    return bool(job["state"] == RUNNING and now - job["heartbeat"] < LOST_SECONDS)


def submit(job: str, command: list[str], *, finish: bool) -> None:
    """Submit a job to Ray, which runs it without a login.

    Args:
        job: Id of the job.
        command: Command to run.
        finish: Whether the cluster stops when the job has ended.
    """
    import shlex

    from ray.job_submission import JobSubmissionClient

    from cluster.pod.node import dashboard_port

    flags = ["--finish"] if finish else []
    entrypoint = [sys.executable, "-m", "cluster.pod.job", "run", job, *flags, "--", *command]
    (jobs_folder() / job).mkdir(parents=True, exist_ok=True)  # `follow` accepts the job from now on
    client = JobSubmissionClient(f"http://127.0.0.1:{dashboard_port()}")
    client.submit_job(entrypoint=shlex.join(entrypoint), submission_id=job, entrypoint_num_cpus=0)


def run(job: str, command: list[str], *, finish: bool) -> int:
    """Run a command to its end, with a heartbeat in the job record; SIGTERM is forwarded as SIGINT.

    Args:
        job: Id of the job.
        command: Command to run.
        finish: Whether the cluster stops when the job has ended.

    Returns:
        The exit code of the command.
    """
    folder = jobs_folder() / job
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"id": job, "command": command, "state": RUNNING, "started": time.time(), "code": None}
    # run `python` from this environment, independently of PATH
    command = [sys.executable if part == "python" else part for part in command[:1]] + command[1:]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
        while True:
            write_json(folder / "job.json", {**record, "heartbeat": time.time()})
            try:
                code = process.wait(HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
    now = time.time()
    write_json(folder / "job.json", {**record, "state": ENDED, "code": code, "heartbeat": now, "ended": now})
    if finish:
        (jobs_folder().parent / FINISH).write_text(f"job {job} ended with exit code {code}")
    return code


def follow(job: str) -> int:
    """Print the log of a job until it has ended.

    Args:
        job: Id of the job.

    Returns:
        The exit code of the job; 1 for a job that was lost or never started, 2 for an unknown job.
    """
    folder, log_offset, started_at = jobs_folder() / job, 0, time.monotonic()
    if not folder.is_dir():
        names = sorted(path.name for path in jobs_folder().glob("*/"))
        print(f"error: job {job!r} not found (available: {', '.join(names) or 'none'})", file=sys.stderr)
        return 2
    while True:
        record = next((record for record in read_jobs() if record["id"] == job), None)
        has_ended = record is not None and not is_running(record, time.time())
        if record is None and time.monotonic() - started_at > START_SECONDS:
            print(f"error: job {job} has not started; see the Ray dashboard for the reason", file=sys.stderr)
            return 1
        log = folder / "log.txt"
        if log.exists():
            with log.open("rb") as file:
                file.seek(log_offset)
                output = file.read()
            log_offset += len(output)
            sys.stdout.buffer.write(output)
            sys.stdout.flush()
        if has_ended:
            assert record is not None
            return 1 if record["code"] is None else int(record["code"])
        time.sleep(1.0)


def main(arguments: list[str]) -> int:
    """Run a subcommand of `python -m cluster.pod.job`.

    Args:
        arguments: Command line without the program's name.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.pod.job", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("submit", "run"):
        action = actions.add_parser(name)
        action.add_argument("job")
        action.add_argument("--finish", action="store_true", help="stop the cluster when the job has ended")
    actions.add_parser("follow").add_argument("job")
    actions.add_parser("list")
    # the arguments after -- are the command of the job
    separator = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:separator]), arguments[separator + 1 :]
    if options.action == "follow":
        return follow(options.job)
    if options.action == "list":
        print(json.dumps(read_jobs()))
        return 0
    if options.action == "submit":
        submit(options.job, command, finish=options.finish)
        return 0
    return run(options.job, command, finish=options.finish)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
