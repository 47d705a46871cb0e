"""Commands whose calls to the file system are numbered, and disturbed one at a time.

The library is compiled from faults.c and loaded into the server of forks (tests/forks.py), so a disturbed command costs
a second or two. What a run did is a list of calls; the same command makes the same calls in the same order, but for
the order in which a library removes the files of a folder. faults.c says what it cannot see.

After a fault and a rerun, every file is the same byte for byte, but for logs and VOLATILE fields of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.commands import ONE_THREAD, Done, python

KINDS = (
    "kill before",
    "kill after",
    "torn",
    "no space",
    "no space from then on",
    "broken",
    "broken from then on",
)
"""In the order of faults.c, after NONE. Broken: EIO."""
KILLS = KINDS[:3]
REMOVALS = ("unlink", "rmdir", "remove")
POSSIBLE = {
    "write": KINDS,
    "rename": ("kill before", "kill after", "broken", "broken from then on"),
    **dict.fromkeys(REMOVALS, ("kill before", "kill after", "broken", "broken from then on")),
}
"""Kinds that can befall a call; those of every other call are all but a torn write."""
UNSAID = "a file could not be written"
MESSAGES = {"no space": ("no space left", " is full: ", UNSAID), "broken": ("input/output error", UNSAID)}
"""What a message says of each kind; some libraries don't say why they failed."""
STAGES = ("select", "train", "evaluate")
NOT_OURS = "datasets"
"""Folder in which a library keeps what it makes again at will, under names with times in them."""
ARTIFACT = "mine"
"""Where the commands are told to write: output=mine."""


@dataclass(frozen=True)
class Call:
    """One line of a trace; paths are relative to the folder of the run."""

    number: int
    name: str
    path: str
    second: str
    size: int

    @property
    def what(self) -> str:
        """The call without what is random in it."""
        return " ".join(part for part in (self.name, plain(self.path), plain(self.second)) if part)


def plain(path: str) -> str:
    """A path without the random part of a temporary name, and the numbers of processes."""
    path = re.sub(r"\.partial-(?!old\b)\w+", ".partial-*", path)
    path = re.sub(r"/\.tmp\w{6}$", "/.tmp*", path)  # safetensors'
    return re.sub(r"(cache/content|cache/answers/\w+)/[^/]+$", r"\1/*", path)


@dataclass(frozen=True)
class Fault:
    """What happens to call `number` of `process`."""

    process: str
    number: int
    kind: str

    @property
    def kills(self) -> bool:
        return self.kind in KILLS


@dataclass(frozen=True)
class Command:
    """A command to disturb, run in an empty folder or in a copy of `before`."""

    stage: str
    arguments: tuple[str, ...]
    before: Path | None = None
    prelude: str = ""
    """Code that runs before the command's."""

    @property
    def processes(self) -> tuple[str, ...]:
        return ("reproduce", *STAGES) if self.stage == "reproduce" else (self.stage,)

    def prepare(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if self.before:
            shutil.copytree(self.before, folder, symlinks=True)
        else:
            folder.mkdir(parents=True)

    def run(self, folder: Path, fault: Fault | None = None) -> tuple[Done, dict[str, list[Call]]]:
        """Run in `folder`; returns what was said, and the calls of each process that was traced."""
        traces = folder.parent / f"{folder.name}-traces"
        shutil.rmtree(traces, ignore_errors=True)
        traces.mkdir()
        code = self._code(self.stage, folder, traces, fault)
        if self.stage == "reproduce":
            stages = {stage: self._code(stage, folder, traces, fault) for stage in STAGES}
            programs = f"{{stage: [sys.executable, '-c', code] for stage, code in {stages!r}.items()}}"
            code = f"import sys\nfrom smart.experiment.execute import PROGRAMS\nPROGRAMS.update({programs})\n{code}"
        done = subprocess.run(
            [python(), "-c", code, *self.arguments],
            cwd=folder, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        found = {path.stem: read_trace(path, folder) for path in sorted(traces.iterdir())}
        return Done(done.returncode, done.stdout, done.stderr), found

    def _code(self, stage: str, folder: Path, traces: Path, fault: Fault | None) -> str:
        number, kind = 0, 0
        if fault and fault.process == stage:
            number, kind = fault.number, 1 + KINDS.index(fault.kind)
        arm = f"ctypes.CDLL(None).arm({os.fsencode(folder)!r}, {os.fsencode(traces / stage)!r}, {number}, {kind})"
        return f"{STEADY}\n{self.prelude}\nimport ctypes; {arm}\nfrom smart.cli.{stage} import main; main()"


STEADY = "from smart.runtime.content import ContentHashes; ContentHashes._SETTLED = 1 << 62"
"""Hashes of files that are a while old are noted, so by the clock there would be more calls or fewer."""


def read_trace(path: Path, folder: Path) -> list[Call]:
    def relative(place: str) -> str:
        return os.path.relpath(place, folder) if place.startswith(f"{folder}/") else ""

    lines = [line.split("\t") for line in path.read_text(errors="surrogateescape").splitlines()]
    return [Call(int(n), name, relative(a) or ".", relative(b), int(size)) for n, name, a, b, size in lines]


# What a folder holds, without what differs from run to run.
VOLATILE = {"seconds", "last_session_seconds", "peak_memory", "from_store", "resumed_from_step"}
"""Fields: durations, memory, and what there was to do."""
VOLATILE |= {"hash", "results.json", "select.log", "train.log", "evaluate.log", "table.md", "report.html"}
"""Hashes of files that have such fields, in manifests."""
TOOK = re.compile(rb"\d+\.\d+( \| |</td><td>)[\d.]+ [KMGT]?B")
"""Hours and memory, in a report's table of what the stages took."""


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below, by its plain path → the hash of what does not differ from run to run."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if NOT_OURS in path.parts[len(folder.parts) :]:
            continue
        name = plain(str(path.relative_to(folder)))
        if path.is_dir():
            found[name] = "a folder"
        else:
            found[name] = hashlib.sha256(lasting(path)).hexdigest()[:16]
    return found


def lasting(path: Path) -> bytes:
    """A file's bytes, but for times of day and durations."""
    content = path.read_bytes()
    if path.suffix == ".log" or "cache/content" in str(path):
        return b""  # what a log says depends on what there was to do
    if path.suffix == ".json":
        with suppress(ValueError):  # torn
            return json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
    return TOOK.sub(b"", content) if path.suffix in (".md", ".html") else content


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if key not in VOLATILE}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


@dataclass
class Trial:
    """A command, what an undisturbed run of it leaves, and the calls that it makes."""

    command: Command
    scratch: Path
    besides: Trial | None = None
    """Another command, which has some of the calls: those are disturbed there."""
    whole: dict[str, str] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = self._folder()
        done, self.calls = self.command.run(folder)
        assert done.code == 0, done.said
        self.whole = contents(folder)

    def _folder(self) -> Path:
        folder = self.scratch / "run"  # always the same, since paths stand in results
        self.command.prepare(folder)
        return folder

    def sites(self) -> list[tuple[str, Call]]:
        """Every call, with its process; of many writes to one file in a row the first, the last and one between."""
        elsewhere = self.besides.calls.values() if self.besides else ()
        known = {call.what for calls in elsewhere for call in calls}
        return [
            (process, call)
            for process in self.command.processes
            for call in thinned(self.calls.get(process, []))
            if call.what not in known
        ]

    def faults(self, seed: int = 0) -> list[Fault]:
        """One for each site of the command's own process: a call to a path, of which one is drawn, and a kind.

        The stages that reproduce.py starts are commands of their own, and disturbed as those.
        """
        calls: dict[str, list[Call]] = {}
        for process, call in self.sites():
            if process == self.command.stage:
                calls.setdefault(call.what, []).append(call)
        draws = ((random.Random(f"{seed} {what}"), found) for what, found in calls.items())
        return [draw(self.command.stage, rng.choice(found), rng) for rng, found in draws]

    def problems(self, fault: Fault) -> list[str]:
        """Disturb the command, then run it again undisturbed: what went wrong in either."""
        folder = self._folder()
        done, calls = self.command.run(folder, fault)
        met = next((call for call in calls.get(fault.process, []) if call.number == fault.number), None)
        found = [*self._disturbed(fault, met, done), *self._left(folder, done), *self._artifacts(folder)]
        again, _ = self.command.run(folder)
        if again.code or "Traceback" in again.said:
            found.append(f"the rerun ended with {again.code}:\n{again.said[-3000:]}")
        else:
            found += differences(self.whole, contents(folder))
        where = f"{fault.process} #{fault.number} {fault.kind}: {met.what if met else 'not reached'}"
        return [f"{where}: {problem}" for problem in found]

    def _disturbed(self, fault: Fault, met: Call | None, done: Done) -> list[str]:
        if met is None:
            return ["the call was not made"]
        if fault.kills and fault.process == self.command.stage:
            return [] if done.code == -9 else [f"was not killed, but ended with {done.code}"]
        if "Traceback" in done.said:
            return [f"a traceback:\n{done.said[-4000:]}"]
        if done.code not in (0, 1):
            return [f"ended with {done.code}:\n{done.said[-2000:]}"]
        known = [text for kind, texts in MESSAGES.items() if fault.kind.startswith(kind) for text in texts]
        if done.code == 1 and not any(text in done.said.lower() for text in known) and not fault.kills:
            return [f"a message that does not say why:\n{done.said[-2000:]}"]
        return []

    def _left(self, folder: Path, done: Done) -> list[str]:
        """A run that says it succeeded has left what it leaves undisturbed."""
        if done.code:
            return []
        here = contents(folder)
        wrong = [name for name, digest in here.items() if name in self.whole and self.whole[name] != digest]
        return [f"success, but {name} is another" for name in wrong]

    def _artifacts(self, folder: Path) -> list[str]:
        """A folder with a manifest is a whole artifact; of the older and the new one, one is there."""
        if not self.command.before:
            return []
        wanted = [contents(self.command.before / ARTIFACT), below(self.whole, ARTIFACT)]
        places = [path for path in (folder / ARTIFACT, *folder.glob(f".{ARTIFACT}*")) if path.is_dir()]
        whole = [path for path in places if any(one.items() <= contents(path).items() for one in wanted)]
        found = []
        if not whole and self.command.stage != "train":  # which makes room for the new one before it begins
            found.append("neither the older artifact nor the new one is there")
        if (folder / ARTIFACT / "manifest.json").exists() and folder / ARTIFACT not in whole:
            found.append(f"{ARTIFACT} has a manifest, but is not whole")
        return found


def below(found: dict[str, str], folder: str) -> dict[str, str]:
    """The part of `contents` in a folder."""
    start = f"{folder}/"
    return {name.removeprefix(start): one for name, one in found.items() if name.startswith(start)}


def thinned(calls: list[Call]) -> list[Call]:
    kept: list[Call] = []
    for _, group in groupby(calls, key=lambda call: call.what):
        first, *rest = group
        between = [random.Random(first.number).choice(rest[:-1])] if len(rest) > 1 else []
        kept += [first, *between, *rest[-1:]]
    return kept


def draw(process: str, call: Call, rng: random.Random) -> Fault:
    """A fault that can befall the call."""
    others = tuple(kind for kind in KINDS if kind != "torn")
    return Fault(process, call.number, rng.choice(POSSIBLE.get(call.name, others)))


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = found.keys() - expected.keys()
    left = [f"{name} was left over" for name in sorted(extra) if os.path.dirname(name) not in extra]
    other = [f"{name} is another" for name in expected if name in found and expected[name] != found[name]]
    return missing + left + other
