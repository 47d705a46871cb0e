"""Measures what is asked for within its minutes: each in a process of its own, one line as soon as it is made."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import FAILED, MEMORY, MISSING, OK, REFUSED, Measurement, Results

Ended = tuple[str, dict[str, Any]]
"""How a measurement ended, and its numbers or what went wrong."""
Measure = Callable[[Measurement, float], Ended | None]
"""Makes a measurement within so many seconds; None where that was too little."""

SHOWN = 3000
"""Characters of an error that are kept."""


class MissingError(Exception):
    """Something that a measurement needs and the machine does not have."""


def run(
    wanted: Iterable[Measurement],
    results: Results,
    minutes: float,
    measure: Measure,
    *,
    seed: int,
    tell: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> list[Measurement]:
    """Make the measurements that the file does not have, in their order, as long as they fit.

    Returns:
        What there was no time for.
    """
    deadline = clock() + 60 * minutes
    late: list[Measurement] = []
    given_up: set[tuple[str, str]] = set()
    for one in wanted:
        if results.is_settled(one) or (one.case, one.contender) in given_up:
            continue
        left = deadline - clock()
        if late or results.expected(one) > left:
            late.append(one)
            continue
        started = clock()
        ended = _lacking(one) or measure(one, left)
        if ended is None:
            late.append(one)
            continue
        status, result = ended
        if status != OK:  # another try in the same minutes would end in the same way
            given_up.add((one.case, one.contender))
        results.add(one, status, result, clock() - started, seed)
        tell(f"{one}: {status} {json.dumps(result)[:400]}")
    if late:
        listed = "\n".join(f"  {one}" for one in late)
        tell(f"No time in {minutes:g} minutes for {len(late)}; the same command goes on with:\n{listed}")
    return late


def _lacking(one: Measurement) -> Ended | None:
    lacking = [name for name in one.needs if importlib.util.find_spec(name) is None]
    return (MISSING, {"missing": ", ".join(lacking)}) if lacking else None


def guarded(measure: Callable[[], dict[str, Any]]) -> Ended:
    """Call it, and tell how it ended."""
    from smart.config import UserError

    try:
        return OK, measure()
    except MissingError as error:
        return MISSING, {"missing": str(error)}
    except ModuleNotFoundError as error:
        return MISSING, {"missing": str(error.name)}
    except UserError as error:
        return REFUSED, {"reason": str(error)}
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error):
            return MEMORY, {"reason": str(error).splitlines()[0]}
        return FAILED, {"error": repr(error)[:SHOWN], "traceback": traceback.format_exc()[-SHOWN:]}


def in_a_child(command: list[str], folder: Path, environment: dict[str, str]) -> Measure:
    """Measure in a new process of this command; it and what it started are killed when the time is over."""

    def measure(one: Measurement, seconds: float) -> Ended | None:
        answer, log = folder / "answer.json", folder / "log.txt"
        answer.unlink(missing_ok=True)
        asked = ["--child", one.case, one.contender, str(one.repeat), "--answer", str(answer)]
        with log.open("wb") as output:
            child = subprocess.Popen(
                [*command, *asked],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
            try:
                child.wait(timeout=max(0.1, seconds))
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if not answer.exists():
            said = log.read_text(errors="replace")[-SHOWN:]
            return FAILED, {"error": f"the process ended with {child.returncode}", "log": said}
        status, result = json.loads(answer.read_text(encoding="utf-8"))
        return str(status), dict(result)

    return measure


def answer_and_end(file: Path, ended: Ended) -> None:
    """What a child does with how its measurement ended."""
    file.write_text(json.dumps(ended), encoding="utf-8")
    sys.stdout.flush()
