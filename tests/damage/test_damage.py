"""Every file of every artifact and cache, flipped, cut short, emptied and removed: never a silent other result.

The command that uses the file runs again. Either all results are those of the undisturbed study, to the byte, and the
damaged file is used no more; or it refuses in one line that names the file or its folder.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tests.damage.study import Study, make

RESULTS = (
    "*.parquet",
    "tasks.csv",
    "adapter_model.safetensors",
    "adapter_config.json",
    "tokenizer*",
    "table.csv",
)
"""Files that are compared to the byte; results.json has seconds, and is compared by its scores."""
FREE = (".log", ".lock")
"""Files that nothing reads."""
FOR_PEOPLE = ("cache/embeddings", "cache/orderings")
"""Caches whose manifest.json tells people what is there; damaged, it may stay."""
IDLE = ("cache/collections/files/", "cache/collections/hashes/")
"""What isn't read while the index of the collection is whole, but for the texts; and notes on states of files."""
SAMPLE = 4
"""Cases in `make test`; `make test-full` tries them all, in so many parts."""
PARTS = 4


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(1, path.stat().st_size))


def empty(path: Path, draw: random.Random) -> None:
    os.truncate(path, 0)


def remove(path: Path, draw: random.Random) -> None:
    path.unlink()


HARMS: tuple[Callable[[Path, random.Random], None], ...] = (flip, cut, empty, remove)
AGAIN = {
    "cache/embeddings": ("select",),
    "cache/orderings": ("select",),
    "cache/contamination": ("select",),
    "cache/collections": ("select",),
    "cache/prompts": ("select",),
    "cache/tasks": ("select",),
    "cache/trainable": ("select",),
    "cache/duplicates": ("select",),
    "cache/models": ("train", "evaluate"),
    "cache/answers": ("evaluate",),
    "cache/benchmarks": ("evaluate",),
    "cache/heldout": ("evaluate",),
    "cache/content": ("reproduce",),
    "mixtures": ("train",),
    "adapters": ("evaluate",),
    "scores": ("reproduce",),
    "tables": ("reproduce",),
    "logs": ("reproduce",),
}
"""What uses a file: these stages are made again, from what the ones before have left."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has no other threads, and sums are the same in each
    made = make(tmp_path_factory.mktemp("study"))
    yield made
    torch.set_num_threads(before)


def place_of(name: str) -> str:
    return next(place for place in AGAIN if name.startswith(f"{place}/"))


def files(study: Study) -> list[str]:
    found = sorted(path for path in study.whole.rglob("*") if path.is_file() and path.stat().st_size)
    return [path.relative_to(study.whole).as_posix() for path in found if path.suffix not in FREE]


def results(outputs: Path) -> dict[str, bytes]:
    found = {
        path.relative_to(outputs).as_posix(): path.read_bytes()
        for stage in ("mixtures", "adapters", "scores", "tables")
        for pattern in RESULTS
        for path in outputs.glob(f"{stage}/*/{pattern}")
    }
    for path in outputs.glob("scores/*/results.json"):
        content = json.loads(path.read_text())
        kept = {key: content[key] for key in ("scores", "results", "task_hashes", "parts", "n-samples")}
        found[path.relative_to(outputs).as_posix()] = json.dumps(kept).encode()
    return found


def try_again(study: Study, name: str, harm: Callable[[Path, random.Random], None], found_again: bool) -> str:
    """What went wrong; "" where nothing did.

    Args:
        found_again: the stage that made an artifact runs again, instead of the one that reads it.
    """
    study.restore()
    expected = results(study.outputs)
    path = study.outputs / name
    harm(path, random.Random(f"{name} {harm.__name__}"))
    harmed = path.read_bytes() if path.exists() else None
    place = place_of(name)
    if found_again:
        stages: tuple[str, ...] = ({"mixtures": "select", "adapters": "train", "scores": "evaluate"}[place],)
    else:
        stages = AGAIN[place]
        for stage in stages:
            if stage != "reproduce":
                shutil.rmtree(study.artifact(stage))
    codes, said = study.run(stages)
    case = f"{harm.__name__} {name} → {' '.join(stages)}"
    if "Traceback" in said or min(codes) < 0:
        return f"{case}: {codes}\n{said[-1500:]}"
    if any(codes):
        named = [name, *(parent.as_posix() for parent in Path(name).parents)][:-1]
        if not any(Path(one).name in said for one in named[: len(Path(name).parts) - 1]):
            return f"{case}: refused without a name\n{said[-600:]}"
        return ""
    try:
        now = results(study.outputs)
    except ValueError as error:
        return f"{case}: exit 0 with {error}"
    wrong = [one for one in expected if now.get(one) != expected[one]]
    if wrong:
        return f"{case}: exit 0 with other {', '.join(wrong)}\n{said[-600:]}"
    told = place in FOR_PEOPLE and path.name == "manifest.json"
    told |= name.startswith(IDLE) and not name.endswith(".arrow")
    if harmed is not None and not told and path.exists() and path.read_bytes() == harmed:
        return f"{case}: exit 0, and the damaged file is still there\n{said[-600:]}"
    return ""


def harms_of(name: str) -> Sequence[Callable[[Path, random.Random], None]]:
    """All harms; of pictures, which are many and checked alike, one each."""
    return [random.Random(name).choice(HARMS)] if "/figures/" in name else HARMS


def cases(study: Study) -> list[tuple[str, Callable[[Path, random.Random], None], bool]]:
    listed = [(name, harm, False) for name in files(study) for harm in harms_of(name)]
    made = [name for name in files(study) if place_of(name) in ("mixtures", "adapters", "scores")]
    return listed + [(name, harm, True) for name in made for harm in harms_of(name)]


@pytest.mark.full
def test_the_undisturbed_study_comes_out_again_from_its_caches_and_without_them(study: Study) -> None:
    """Else an equal result below would show little."""
    study.restore()
    expected = results(study.outputs)
    assert len(expected) >= 10
    for stage in ("select", "train", "evaluate"):
        shutil.rmtree(study.artifact(stage))
    shutil.rmtree(study.outputs / "cache")
    codes, said = study.run(("select", "train", "evaluate", "reproduce"))
    assert codes == [0] * 4, said
    assert results(study.outputs) == expected


def silent(study: Study, tried: Sequence[tuple[str, Callable[[Path, random.Random], None], bool]]) -> str:
    wrong = [said for case in tried if (said := try_again(study, *case))]
    return f"{len(wrong)} of {len(tried)}:\n" + "\n\n".join(wrong) if wrong else ""


def test_no_damage_is_silent(study: Study) -> None:
    assert silent(study, random.Random(0).sample(cases(study), SAMPLE)) == ""


@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
def test_no_damage_of_any_file_is_silent(study: Study, part: int) -> None:
    assert silent(study, cases(study)[part::PARTS]) == ""
