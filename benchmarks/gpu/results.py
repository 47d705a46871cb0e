"""Measurements and the file that keeps them: one line of JSON each, appended as soon as it is made."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from smart.runtime.manifest import versions

OK, MEMORY, REFUSED, MISSING, FAILED = "ok", "out of memory", "refused", "missing", "failed"
"""How a measurement ends: with numbers; the GPU is too small; SMART refuses the options and says why; a package or a
file is not there; an error."""
PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "bitsandbytes", "trl", "datasets", "lm_eval"),
    *("sentence_transformers", "liger_kernel", "kernels", "flash_attn", "triton"),
)

Key = tuple[str, str, str, int, str, bool]


@dataclass(frozen=True)
class Measurement:
    """What one process measures."""

    part: str
    case: str
    """What is measured, such as mistral_7b/qlora."""
    contender: str = "smart"
    """By whom, or by which variant."""
    repeat: int = 0
    seconds: float = 60.0
    """Expected, as long as nothing like it has been measured."""
    needs: tuple[str, ...] = ()
    """Packages."""

    def __str__(self) -> str:
        return f"{self.part} {self.case} {self.contender} #{self.repeat + 1}"


def in_turns(measurements: Iterable[Measurement], repeats: int) -> list[Measurement]:
    """Every measurement once, in their order, then all of them again: contenders take turns, breadth comes first."""
    once = list(measurements)
    return [
        Measurement(one.part, one.case, one.contender, repeat, one.seconds, one.needs)
        for repeat in range(repeats)
        for one in once
    ]


class Results:
    """The lines of a file, and those that are added.

    Args:
        machine: the GPU's name and the versions, which go into each line.
        tiny: made on tiny models, to test the kit: never taken for the real ones.
    """

    def __init__(self, file: Path, machine: dict[str, Any], tiny: bool) -> None:
        self.file, self.machine, self.tiny = file, machine, tiny
        self.lines = list(read_lines(file))

    def _key(self, one: Measurement) -> Key:
        return (one.part, one.case, one.contender, one.repeat, str(self.machine["gpu"]), self.tiny)

    def is_settled(self, one: Measurement) -> bool:
        """True for what has its numbers, and for what did not fit into this GPU or was refused, in any repeat."""
        key = self._key(one)
        ended = {line["status"] for line in self.lines if key_of(line) == key}
        same = {
            line["status"] for line in self.lines if _without_repeat(key_of(line)) == _without_repeat(key)
        }
        return OK in ended or not same.isdisjoint((MEMORY, REFUSED))

    def expected(self, one: Measurement) -> float:
        """Seconds that it may take: the longest of the same kind, with a margin; else what it says itself."""
        same = self._seconds(one.part, one.case, one.contender) or self._seconds(one.part, one.case, None)
        return 1.2 * max(same) if same else one.seconds

    def _seconds(self, part: str, case: str, contender: str | None) -> list[float]:
        return [
            float(line["seconds"])
            for line in self.lines
            if key_of(line)[:2] == (part, case)
            and contender in (None, line["contender"])
            and (line["machine"]["gpu"], line["tiny"]) == (self.machine["gpu"], self.tiny)
        ]

    def add(self, one: Measurement, status: str, result: dict[str, Any], seconds: float, seed: int) -> None:
        """Append a line, whole or not at all."""
        line = {
            "part": one.part,
            "case": one.case,
            "contender": one.contender,
            "repeat": one.repeat,
            "status": status,
            "result": result,
            "seconds": round(seconds, 1),
            "seed": seed,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "machine": self.machine,
            "tiny": self.tiny,
        }
        self.lines.append(line)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        torn = self.file.exists() and not self.file.read_bytes().endswith(b"\n")
        with self.file.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn and self.file.stat().st_size else "") + json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of results; one that a killed process left torn is passed over."""
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "status" in line:
            yield line


def key_of(line: dict[str, Any]) -> Key:
    """Which measurement a line is of, on which GPU."""
    return (
        *(line["part"], line["case"], line["contender"], line["repeat"]),
        *(str(line["machine"]["gpu"]), line["tiny"]),
    )


def _without_repeat(key: Key) -> tuple[object, ...]:
    return (*key[:3], *key[4:])


def describe_machine() -> dict[str, Any]:
    """The GPU's name, by the driver so that no memory is taken; and what is installed."""
    return {"gpu": gpu_name(), "commit": _commit(), "versions": versions(*PACKAGES)}


def gpu_name() -> str | None:
    """The first GPU's name; None without any."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
        return names[0].strip() if names else None
    except (OSError, subprocess.CalledProcessError):
        import torch

        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def _commit() -> str | None:
    try:
        told = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return told.stdout.strip() or None
