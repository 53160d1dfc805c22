"""From a typed keyword-only function to ``python -m sluice.<stage>.<step> --flag …``.

A step module ends with ``if __name__ == "__main__": run_step(the_function)``. Parameters may be ``Path``,
``list[Path]``, ``int``, ``float``, ``str``, ``bool``, optional versions of these, or a pydantic model given as JSON.
``--log FILE`` sends everything printed to that file and names the job; ``--attempts FILE`` moves the attempts file.
"""

from __future__ import annotations

import argparse
import inspect
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import psutil
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sluice.attempts import ATTEMPTS_FILE, Recorder, is_running, job_name
from sluice.errors import SluiceError

T = TypeVar("T")
DRIVER_VARIABLE = "SLUICE_DRIVER"  # host:pid:start of the local driver that a step must not outlive
CONTINUE_EXIT_CODE = 75  # EX_TEMPFAIL: saved its state, wants to be started again

_recorder: Recorder | None = None
_gpu_seconds = 0.0
_foreign_cpu_seconds = 0.0


class Continue(Exception):
    """Raised by a step that saved its state before a time limit and wants to be started again.

    Args:
        reason: in words.
        advanced: whether it got further than when it started; None: its progress tells.
    """

    def __init__(self, reason: str, *, advanced: bool | None = None) -> None:
        super().__init__(reason)
        self.advanced = advanced


def add_gpu_seconds(seconds: float) -> None:
    """Count GPU time towards this attempt."""
    global _gpu_seconds
    _gpu_seconds += seconds


def children_cpu_seconds() -> float:
    """CPU time of this process's children that have ended, s."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def add_foreign_cpu_seconds(seconds: float) -> None:
    """Count CPU time of programs that are not children of this process, as what srun starts, towards this attempt."""
    global _foreign_cpu_seconds
    _foreign_cpu_seconds += max(0.0, seconds)


def current_recorder() -> Recorder | None:
    """What records the running step, to be handed to a process that it starts."""
    return _recorder


def use_recorder(recorder: Recorder | None) -> None:
    """Record this process's progress as part of the attempt of the step that started it."""
    global _recorder
    _recorder = recorder


def report_progress(
    done: float, total: float | None, unit: str = "", message: str = "", *, force: bool = False
) -> None:
    """Tell the attempts file how far this step is; without a running step nothing happens."""
    if _recorder is not None:
        _recorder.progress(done, total, unit, message, force=force)


def track(items: Iterable[T], description: str, total: int | None = None, unit: str = "items") -> Iterator[T]:
    """Iterate with a progress bar on a terminal and progress events in the attempts file."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(description, total=total)
        for done, item in enumerate(items):
            report_progress(done, total, unit, description)
            yield item
            progress.update(bar, completed=done + 1)
    if total is not None:
        report_progress(total, total, unit, description, force=True)


def _strip_optional(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return annotation, False


def make_parser(function: Callable[..., Any]) -> argparse.ArgumentParser:
    """Build the argument parser that mirrors the function's keyword-only parameters."""
    doc = inspect.getdoc(function) or ""
    parser = argparse.ArgumentParser(prog=f"python -m {function.__module__}", description=doc.split("\n\n")[0])
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{function.__name__}: parameter {name} must be keyword-only")
        annotation, optional = _strip_optional(hints[name])
        required = parameter.default is inspect.Parameter.empty and not optional
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        flag = "--" + name.replace("_", "-")
        options: dict[str, Any] = {"required": required, "default": default, "dest": name}
        if typing.get_origin(annotation) is list:
            options |= {"nargs": "*", "type": typing.get_args(annotation)[0]}
        elif annotation is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            options |= {"type": annotation.model_validate_json, "metavar": "JSON"}
        else:
            options |= {"type": annotation}
        parser.add_argument(flag, **options)
    parser.add_argument("--log", type=Path, help="write all output to this file and name the job after it")
    parser.add_argument("--attempts", type=Path, default=Path(ATTEMPTS_FILE), help="file that records every attempt")
    return parser


def _job_name(function: Callable[..., Any], log: Path | None) -> str:
    return function.__name__ if log is None else job_name(log)


def _watch_driver() -> None:
    """End this process and its children when the driver that started it locally has died."""
    host, pid, started = os.environ[DRIVER_VARIABLE].rsplit(":", 2)

    def watch() -> None:
        while is_running(host, int(pid), float(started)) is not False:
            time.sleep(1.0)
        for child in psutil.Process().children(recursive=True):
            try:
                child.kill()
            except psutil.Error:
                continue
        os._exit(137)

    if host == socket.gethostname():
        threading.Thread(target=watch, daemon=True, name="driver-watch").start()


def _costs() -> dict[str, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_seconds": own.ru_utime + own.ru_stime + children_cpu_seconds() + _foreign_cpu_seconds,
        "gpu_seconds": _gpu_seconds,
        "max_rss_mb": max(own.ru_maxrss, children.ru_maxrss) / 1024,
    }


def run_step(function: Callable[..., None], arguments: list[str] | None = None) -> NoReturn:
    """Parse the command line, run the function as a recorded attempt, and exit.

    Exit codes: 0 done, 1 failed (the reason on standard error), 75 wants to be continued.
    """
    global _recorder
    parser = make_parser(function)
    try:
        values = vars(parser.parse_args(arguments))
    except ValidationError as error:
        parser.error(str(error))
    log, attempts = values.pop("log"), values.pop("attempts")
    console = os.dup(2)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)
    if os.environ.get(DRIVER_VARIABLE):
        _watch_driver()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _recorder = Recorder(attempts, job=_job_name(function, log), step=function.__name__, log=str(log) if log else None)
    outcome, reason, code = "done", "", 0
    advanced: bool | None = None
    try:
        function(**values)
    except Continue as request:
        outcome, reason, code, advanced = "continued", str(request), CONTINUE_EXIT_CODE, request.advanced
    except SluiceError as error:
        outcome, reason, code = "failed", str(error), 1
    except (SystemExit, KeyboardInterrupt) as stop:
        outcome, reason, code = "failed", f"stopped: {stop!r}", 143
    except BaseException as error:
        traceback.print_exc()
        outcome, reason, code = "failed", f"{type(error).__name__}: {error}", 1
    _recorder.end(outcome, reason, advanced=advanced, **_costs())
    if reason:
        print(f"{function.__name__}: {reason}", file=sys.stderr)
        if log is not None:
            os.write(console, f"{function.__name__}: {reason}  (log: {log})\n".encode())
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries' threads (torch, MPI) must not keep a finished step from ending.
    os._exit(code)
