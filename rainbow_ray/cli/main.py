"""Run a command: exit codes, and errors that users can fix as one line each instead of a traceback."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
from collections.abc import Callable, Sequence

from rainbow_ray.utils.background import exit_despite_calls, has_calls
from rainbow_ray.utils.errors import EXIT_FAILURE, EXIT_INPUT_ERROR, InputError, TrainingError
from rainbow_ray.utils.signals import describe, exit_code
from rainbow_ray.utils.streams import close_output, print_error, printable, protect_streams

# Packages that a light installation lacks, and the optional dependencies (extra) that contain them.
EXTRAS = {
    **dict.fromkeys(("torch", "ray", "transformers", "pandas", "pyarrow", "sklearn", "safetensors", "psutil"), "train"),
    "librosa": "descriptors",
    **dict.fromkeys(("fastapi", "starlette", "swagger_ui_bundle"), "serve"),
}


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Run a command with the arguments of this process.

    Args:
        main: Takes the arguments, without the program's name, and returns an exit code.

    Returns:
        0 for success, 1 if the work failed, 2 if the input or the config is wrong, 130 if interrupted (SIGINT), 143 if
        terminated (SIGTERM).
    """
    # Python looks for cycles among all objects when it ends: a second, with the modules of PyTorch and transformers.
    atexit.register(gc.freeze)
    try:
        code = _run(main)
    except Exception:  # a defect: Python would print the traceback as well, and then end in order
        if not has_calls():
            raise
        sys.excepthook(*sys.exc_info())
        code = EXIT_FAILURE
    return exit_despite_calls(code)


def _run(main: Callable[[Sequence[str]], int]) -> int:
    """Return the exit code of a command. Defects are raised."""
    protect_streams()
    try:
        _check_encoding(sys.argv[1:])
        code = main(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        print(printable(describe(error)), file=sys.stderr)
        return exit_code(error)
    except Exception as error:
        code_of_error = _report(error)
        if code_of_error is None:
            raise
        return code_of_error


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raise `InputError` for arguments that are not text: neither pyarrow nor Ray accepts such a name."""
    problems = []
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raw = os.fsencode(argument).decode("utf-8", "backslashreplace")
            encoding = sys.getfilesystemencoding()
            problems.append(f"{raw}: not text in {encoding}; rename the file, or set LC_ALL=C.UTF-8")
    if problems:
        raise InputError(problems)


def _report(error: Exception) -> int | None:
    """Print an error that users can fix and return the exit code; None for a defect, which keeps its traceback."""
    if isinstance(error, InputError):
        for problem in error.problems:
            print_error(problem)
        return EXIT_INPUT_ERROR
    if isinstance(error, TrainingError):
        print_error(str(error))
        return EXIT_FAILURE
    if isinstance(error, BrokenPipeError):  # `… | head`
        close_output()
        return EXIT_FAILURE
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError):
        print_error(f"{error.filename}: {error.strerror}")
        return EXIT_INPUT_ERROR
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        close_output()  # standard output itself may be on the full disk
        print_error(f"{error.filename or 'standard output'}: {error.strerror}")
        return EXIT_FAILURE
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in EXTRAS:
        print_error(f"{package} is not installed: pip install 'rainbow-ray[{EXTRAS[package]}]'")
        return EXIT_INPUT_ERROR
    return None
