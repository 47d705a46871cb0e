"""Whether what a run wrote survives a power cut: the order of its calls, since a cut itself can't be made here.

A system may keep writes, new names and removals in memory, and bring them to the disk in any order; fsync of a file
brings its bytes, fsync of a folder its names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath as Path

from tests.faults.harness import NOT_OURS, REMOVALS, Call, plain

PARTIAL = ".partial-"
MANIFEST = "manifest.json"
UNKEPT = (NOT_OURS, "logs")
"""Folders that nothing depends on."""


def order_problems(calls: Iterable[Call]) -> list[str]:
    """What a power cut could spoil, each once, where it could first.

    1. When a name comes to stand for something whole (a rename to a final name), its bytes are on the disk.
    2. When a folder gets its manifest, or a folder with one gets its final name, all that stays in it is on the disk.
    3. When something that was on the disk is removed, what was written beside it before is there, too.
    """
    calls = list(calls)
    removed = {Path(call.path) for call in calls if call.name in REMOVALS}
    files: set[Path] = set()  # with bytes that may be lost
    names: set[Path] = set()  # which their folders may lose
    problems: list[str] = []

    def report(call: Call, folder: Path, but: set[Path]) -> None:
        for kind, lost in (("bytes of", files), ("the name", names)):
            found = sorted(
                path for path in lost - but if folder in path.parents or (path == folder and lost is files)
            )
            lost.difference_update(found)
            problems.extend(
                f"#{call.number} {call.what}: {kind} {plain(str(path))} may be lost" for path in found
            )

    for call in calls:
        path, second = Path(call.path), Path(call.second)
        if any(name in path.parts for name in UNKEPT):
            continue
        if call.name in ("open", "mkdir"):
            names.add(path)
        elif call.name in ("write", "truncate"):
            files.add(path)
        elif call.name == "fsync":
            files.discard(path)
            names = {name for name in names if name.parent != path}
            if (
                path.suffix == ".safetensors"
            ):  # renamed by a system call of its own, which is not in the trace
                files = {
                    file
                    for file in files
                    if not (file.parent == path.parent and file.name.startswith(".tmp"))
                }
        elif call.name == "rename":
            if PARTIAL not in second.name:
                report(call, path, removed)
            if second.name == MANIFEST and PARTIAL not in call.second:
                report(call, second.parent, removed | {path})
            files = {_moved(file, path, second) for file in files}
            names = {_moved(name, path, second) for name in names} | {second}
        elif call.name in REMOVALS:
            durable = path not in files
            files = {file for file in files if path not in (file, *file.parents)}
            names = {name for name in names if path not in (name, *name.parents)}
            if durable and PARTIAL not in call.path:
                report(call, _artifact(path), set())
    return problems


def _moved(path: Path, old: Path, new: Path) -> Path:
    return new / path.relative_to(old) if path == old or old in path.parents else path


def _artifact(path: Path) -> Path:
    """The folder of which something is a part: mine/checkpoints/a → mine, outputs/adapters/b/c → outputs/adapters/b."""
    depth = {"outputs": 3}.get(path.parts[0], 1) + (path.parts[:2] == ("outputs", "cache"))
    return Path(*path.parts[: min(depth, max(1, len(path.parts) - 1))])
