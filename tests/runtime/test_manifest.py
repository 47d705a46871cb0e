"""Manifests and what they vouch for: damage, versions, caches, and kills at every step of replacing a folder."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from smart.cli.errors import explain
from smart.config import UserError
from smart.runtime import files
from smart.runtime.files import PARTIAL, atomic_folder, discard, real, recover, write_atomic
from smart.runtime.locks import owned
from smart.runtime.manifest import (
    FORMAT,
    DamagedError,
    cached_folder,
    is_made,
    open_artifact,
    read_manifest,
    versions,
    write_manifest,
)

KEY = "k" * 32


def make(folder: Path, key: str = KEY) -> None:
    with atomic_folder(folder) as draft:
        (draft / "rows").write_text(f"rows of {key}")
        (draft / "figures").mkdir()
        (draft / "figures/a.png").write_text("a")
        write_manifest(draft, {"kind": "mixture", "key": key})


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if PARTIAL in path.name]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    make(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_manifest_names_every_file_but_those_of_inner_artifacts(artifact: Path) -> None:
    make(artifact / "merged")
    (artifact / "run.json").touch()
    written = write_manifest(artifact, {"kind": "adapter", "key": KEY}, besides=["run.json"])
    assert set(written["files"]) == {"rows", "figures/a.png"}
    assert written["format"] == FORMAT
    assert read_manifest(artifact) == open_artifact(artifact) == written


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        ('{"kind": ', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds a list where fields are due"),
        ("null", "holds a NoneType"),
        ('{"format": 2}', "has no key"),
        ('{"format": 1, "key": 7}', "has no key"),
        ('{"format": "2", "key": "a"}', "has format 2"),
        ('{"format": true, "key": "a"}', "has format True"),
        ('{"format": 0, "key": "a"}', "has format 0"),
        ('{"format": 2, "key": "a"}', "has changed since it was written"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(artifact: Path, content: str, said: str) -> None:
    (artifact / "manifest.json").write_text(content)
    for use in (read_manifest, open_artifact, lambda folder: is_made(folder, KEY, "mixture")):
        with pytest.raises(DamagedError, match=rf"mine/manifest.json: {said}.*overwrite=true"):
            use(artifact)


def test_a_manifest_of_a_later_version_is_refused(artifact: Path) -> None:
    (artifact / "manifest.json").write_text('{"format": 3, "key": "a", "more": []}')
    with pytest.raises(UserError, match=r"has format 3, and this version reads up to 2; upgrade"):
        is_made(artifact, KEY, "mixture")


def test_an_earlier_manifest_is_used_where_it_names_its_files(artifact: Path) -> None:
    earlier = {name: value for name, value in (read_manifest(artifact) or {}).items() if name != "hash"}
    for without in ({"format": 1}, {}):
        plain = {name: value for name, value in earlier.items() if name != "format"} | without
        (artifact / "manifest.json").write_text(json.dumps(plain))
        assert is_made(artifact, KEY, "mixture")
        (artifact / "manifest.json").write_text(json.dumps({**plain, "files": {}}))
        with pytest.raises(DamagedError, match="names no files, so that nothing can be checked"):
            is_made(artifact, KEY, "mixture")


def test_a_manifest_alone_is_no_artifact(artifact: Path) -> None:
    for name in ("rows", "figures"):
        files.remove(artifact / name)
    with pytest.raises(DamagedError, match=r"mine/figures/a.png: is missing; restore it"):
        is_made(artifact, KEY, "mixture")


def damage(content: bytes) -> list[bytes]:
    """A bit flipped in each byte, half of it, and nothing."""
    flipped = [content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in range(len(content))]
    return [*flipped, content[: len(content) // 2], b""]


@pytest.mark.parametrize("name", ["manifest.json", "rows", "figures/a.png"])
def test_every_damage_is_found_wherever_an_artifact_is_used(artifact: Path, name: str) -> None:
    whole, manifest = (artifact / name).read_bytes(), read_manifest(artifact)
    for content in damage(whole):
        (artifact / name).write_bytes(content)
        if name == "manifest.json" and _same(content, manifest):
            assert is_made(artifact, KEY, "mixture")
            continue
        for use in (open_artifact, lambda folder: is_made(folder, KEY, "mixture")):
            with pytest.raises(UserError, match=re.escape(str(artifact / name))):
                use(artifact)
        assert not is_made(artifact, KEY, "mixture", overwrite=True)


def _same(content: bytes, manifest: object) -> bool:
    """A space between fields that became another says the same."""
    try:
        return bool(json.loads(content) == manifest)
    except ValueError:
        return False


def test_what_else_lies_in_the_place_is_refused(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mixture of another configuration; name another folder"):
        is_made(artifact, "another", "mixture")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output=.*/file: is a file; name another"):
        is_made(tmp_path / "file", KEY, "mixture")
    assert not is_made(tmp_path / "nothing", KEY, "mixture")


def test_a_damaged_cache_is_made_again_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    folder, made = tmp_path / "cache", []

    def write(draft: Path) -> None:
        made.append(draft)
        (draft / "weights").write_text("whole")

    def use(key: str = KEY) -> int:
        caplog.clear()
        cached_folder(folder, "weights", key, write)
        assert (folder / "weights").read_text() == "whole"
        return len(made)

    assert (use(), use(), caplog.text) == (1, 1, "")
    (folder / "weights").write_text("whale")
    assert use() == 2
    assert caplog.messages == [f"{folder / 'weights'}: has changed since it was written: made again."]
    (folder / "manifest.json").write_text("{}")
    assert (use(), len(caplog.messages)) == (3, 1)
    (folder / "manifest.json").unlink()
    assert (use(), len(caplog.messages)) == (4, 1)
    assert (use("another"), len(caplog.messages)) == (5, 1)
    assert (use("another"), caplog.messages) == (5, [])


CALLS = ("os.open", "os.fsync", "os.replace", "os.unlink", "os.rmdir", "os.mkdir", "os.chmod")


def at_call(number: int, strike: Callable[[object], object], work: Callable[[], object]) -> bool:
    """Do `work`, with `strike` before the call of that number that changes the disk; whether there were so many."""
    count = itertools.count()
    before = {name: getattr(os, name.partition(".")[2]) for name in CALLS}

    def struck(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if next(count) == number:
                strike(arguments[0])
            return function(*arguments, **options)

        return call

    for name, function in before.items():
        setattr(os, name.partition(".")[2], struck(function))
    try:
        work()
    finally:
        for name, function in before.items():
            setattr(os, name.partition(".")[2], function)
    return next(count) > number


def killed(number: int, work: Callable[[], object]) -> bool:
    """The same in a process of its own, which dies there."""
    child = os.fork()
    if not child:
        try:
            at_call(number, lambda _: os._exit(9), work)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def replace(folder: Path) -> None:
    with owned(folder):
        make(folder, "new" * 8)


def train(folder: Path) -> None:
    """As a training replaces a folder: the old one goes, files come one by one, the manifest last."""
    folder = real(folder)
    with owned(folder):
        discard(folder)
        folder.mkdir()
        (folder / "rows").write_text("new")
        write_manifest(folder, {"kind": "adapter", "key": "new" * 8})


@pytest.mark.parametrize("work", [replace, train])
def test_killed_at_any_step_of_replacing_nothing_is_lost_and_nothing_left(
    tmp_path: Path, work: Callable[[Path], None]
) -> None:
    for number in itertools.count():
        folder = tmp_path / str(number) / "mine"
        make(folder)
        struck = killed(number, lambda folder=folder: work(folder))
        with owned(folder):
            manifest = open_artifact(folder) if folder.exists() else None
            assert manifest is None or manifest["key"] in (KEY, "new" * 8)
            assert manifest or work is train, "the old one, or the new one"
        work(folder)
        assert open_artifact(folder)["key"] == "new" * 8  # type: ignore[index]
        assert {path.name for path in folder.parent.iterdir()} == {"mine", ".mine.lock"}
        assert leftovers(folder) == []
        if not struck:
            break
    assert number > 12


@pytest.mark.parametrize("work", [replace, train])
def test_a_link_is_followed_and_stays(tmp_path: Path, work: Callable[[Path], None]) -> None:
    link = tmp_path / "link"
    link.symlink_to("disk/mine")  # which is not there yet
    for _ in range(2):
        work(link)
        assert link.is_symlink()
        assert is_made(link, "new" * 8, "mixture")
        assert {path.name for path in (tmp_path / "disk").iterdir()} == {"mine", ".mine.lock"}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_disk_at_any_step_is_one_message_and_a_rerun_goes_on(
    tmp_path: Path, number: int
) -> None:
    def fail(path: object) -> None:
        raise OSError(number, os.strerror(number), None if isinstance(path, int) else str(path))

    for call in itertools.count():
        folder = tmp_path / str(call) / "mine"
        make(folder)
        try:
            if not at_call(call, fail, lambda folder=folder: replace(folder)):
                break
        except OSError as error:
            said = explain(error)
            assert said is not None
            assert str(folder.parent) in said
            assert "\n" not in said
        replace(folder)
        assert open_artifact(folder)["key"] == "new" * 8  # type: ignore[index]
        assert leftovers(folder.parent) == []
    assert call > 12


def test_files_of_libraries_are_on_disk_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("written by a library")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/weights").write_text("written by a library")
    order: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda f: (order.append(Path(os.readlink(f"/proc/self/fd/{f}")).name), fsync(f))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(f"to {Path(b).name}"), rename(a, b)))
    write_manifest(tmp_path, {"kind": "adapter", "key": KEY})
    last = order.index("to manifest.json")
    assert {"tokenizer.json", "inner", "weights", tmp_path.name} <= set(order[:last])
    assert order[last - 1].startswith(".manifest.json.partial-")
    assert order[last + 1 :] == [tmp_path.name]


def test_what_lies_aside_comes_back_only_where_nothing_took_its_place(artifact: Path) -> None:
    aside = artifact.with_name(f".mine{PARTIAL}old")
    shutil.move(artifact, aside)
    recover(artifact)
    assert is_made(artifact, KEY, "mixture")
    shutil.copytree(artifact, aside)
    write_atomic(artifact / "note", "newer")
    for draft in (f".note{PARTIAL}x", ".tmpX0y1Z2"):
        (artifact / draft).touch()
    recover(artifact)
    assert (artifact / "note").exists()
    assert not (artifact / ".tmpX0y1Z2").exists()
    assert leftovers(artifact.parent) == []


def test_versions_leave_out_what_is_not_installed() -> None:
    assert set(versions("numpy", "no-such-package")) == {"python", "numpy"}
