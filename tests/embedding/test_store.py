import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from smart.config import UserError
from smart.embedding import Encoded, embed, encoding, plan_embedding, store
from smart.runtime.executor import Threads
from smart.runtime.files import PARTIAL, hash_file
from smart.runtime.manifest import is_told
from tests.commands import ROOT, python

from .examples import ROWS, SHARD_ROWS, Fake, die_while_encoding, die_while_writing, prompts

SPAWN = multiprocessing.get_context("spawn")
SHARDS = -(-ROWS // SHARD_ROWS)


def expected(pool: store.Prompts) -> np.ndarray:
    return np.stack([Fake().vector(text) for text in pool.take(0, len(pool)).to_pylist()])


def shard_bytes(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(home.glob("*.npy"))}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vector_i_belongs_to_the_ith_prompt_in_group_order(tmp_path: Path, dtype: str) -> None:
    pool = prompts()
    vectors = embed(pool, Fake(dtype), tmp_path, SHARD_ROWS)
    assert (len(vectors), vectors.d) == (ROWS, 4)
    assert vectors.truncated == sum(len(text) > 50 for text in pool.texts.to_pylist())
    wanted = expected(pool).astype(dtype).astype(np.float32)
    for rows in (
        slice(None),
        slice(3, 5),
        slice(7, 9),
        slice(8, 16),
        slice(5, 41),
        slice(-3, None),
        slice(50, 60),
    ):
        assert vectors[rows].dtype == np.float32
        np.testing.assert_array_equal(vectors[rows], wanted[rows])
    with pytest.raises(ValueError, match="step 2"):
        vectors[::2]


def test_a_second_call_encodes_nothing_and_the_manifest_tells_what_is_there(tmp_path: Path) -> None:
    first, again = embed(prompts(), Fake(), tmp_path, SHARD_ROWS), Fake()
    vectors = embed(prompts(), again, tmp_path, SHARD_ROWS)
    assert again.asked == []
    np.testing.assert_array_equal(vectors[:], first[:])
    assert vectors.truncated == first.truncated > 0
    manifest = json.loads((vectors.folder / "manifest.json").read_text())
    assert manifest["kind"] == "embeddings"
    assert manifest["key"] == vectors.key == vectors.folder.name
    assert manifest["counts"] == {"rows": ROWS, "dimensions": 4, "truncated": first.truncated}
    assert manifest["files"] == {path.name: hash_file(path) for path in sorted(vectors.folder.glob("*.npy"))}
    assert len(manifest["files"]) == SHARDS


def test_key_changes_with_all_that_decides_the_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first key is stored: where it changes, VERSION must have been raised, or caches are lost unasked."""
    own = plan_embedding(prompts(), Fake(), tmp_path).key
    monkeypatch.setattr(Fake, "__module__", "smart.embedding.fake")  # whose code is in no key
    base = plan_embedding(prompts(), Fake(), tmp_path).key
    assert base == "235204f2b685f9f375ce387031032ee6" != own
    others = [
        plan_embedding(prompts(seed=1), Fake(), tmp_path).key,
        plan_embedding(prompts(["a", "b"]), Fake(), tmp_path).key,
        plan_embedding(prompts(), Fake(dtype="float32"), tmp_path).key,
    ]
    assert len({base, *others}) == 4


def test_stored_bytes_are_those_of_this_version(tmp_path: Path) -> None:
    """As above, for the bytes of a shard."""
    vectors = embed(prompts(), Fake(), tmp_path)
    assert hash_file(vectors.folder / "00000.npy") == "d9f6393650da3c0b4b163d5282b6f591"


@pytest.mark.parametrize(
    ("die", "at", "whole"),
    [(die_while_encoding, 1, 0), (die_while_encoding, 30, 3), (die_while_writing, 2, 2)],
)
def test_killed_and_started_again_ends_with_the_same_bytes(
    tmp_path: Path, die: Callable[[Path, int], None], at: int, whole: int
) -> None:
    undisturbed = shard_bytes(embed(prompts(), Fake(), tmp_path / "undisturbed", SHARD_ROWS).folder)
    child = SPAWN.Process(target=die, args=(tmp_path / "killed", at))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("killed/*/*.sealed"))) == whole
    assert len(list(tmp_path.glob(f"killed/*/.*.npy{PARTIAL}*"))) == (die is die_while_writing)
    encoder = Fake()
    plan = plan_embedding(prompts(), encoder, tmp_path / "killed", SHARD_ROWS)
    assert (plan.rows, plan.bytes) == (ROWS - whole * SHARD_ROWS, (ROWS - whole * SHARD_ROWS) * 4 * 2)
    vectors = embed(prompts(), encoder, tmp_path / "killed", SHARD_ROWS)
    assert len(encoder.asked) == ROWS - whole * SHARD_ROWS
    assert shard_bytes(vectors.folder) == undisturbed
    assert list(vectors.folder.glob(".*")) == []
    assert plan_embedding(prompts(), encoder, tmp_path / "killed", SHARD_ROWS) == store.EmbeddingPlan(
        vectors.key, 0, 0
    )


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [flip, lambda path: os.truncate(path, path.stat().st_size - 4), Path.unlink],
    ids=["flip", "cut", "gone"],
)
def test_a_damaged_shard_is_noticed_and_only_it_is_made_again(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    home = embed(prompts(), Fake(), tmp_path, SHARD_ROWS).folder
    whole, pool = shard_bytes(home), prompts()
    harm(home / "00002.npy")
    encoder = Fake()
    embed(pool, encoder, tmp_path, SHARD_ROWS)
    assert sorted(encoder.asked) == sorted(pool.take(16, 24).to_pylist())
    assert shard_bytes(home) == whole
    assert f"{home / '00002.npy'} is damaged or gone: made again." in caplog.messages


def test_a_damaged_record_costs_one_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = embed(prompts(), Fake(), tmp_path, SHARD_ROWS).folder
    record = home / "00006.sealed"
    whole, last = record.read_bytes(), ROWS - 6 * SHARD_ROWS
    for harmed in (whole[:20], whole.replace(b'"truncated": 0', b'"truncated": 1'), b""):
        assert harmed != whole
        record.write_bytes(harmed)
        encoder = Fake()
        embed(prompts(), encoder, tmp_path, SHARD_ROWS)
        assert len(encoder.asked) == last
        assert record.read_bytes() == whole
        assert f"{record} is damaged: made again." in caplog.messages
        caplog.clear()


def test_a_record_of_other_prompts_is_none_of_ours(tmp_path: Path) -> None:
    homes = [embed(prompts(seed=seed), Fake(), tmp_path, SHARD_ROWS).folder for seed in (0, 1)]
    whole = shard_bytes(homes[0])
    for name in ("00000.npy", "00000.sealed"):
        (homes[0] / name).write_bytes((homes[1] / name).read_bytes())
    embed(prompts(), Fake(), tmp_path, SHARD_ROWS)
    assert shard_bytes(homes[0]) == whole


def test_records_of_version_0_1_0_are_read(tmp_path: Path) -> None:
    home = embed(prompts(), Fake(), tmp_path, SHARD_ROWS).folder
    for record in home.glob("*.sealed"):
        record.with_suffix(".json").write_bytes(record.read_bytes().partition(b"\n")[2])
        record.unlink()
    encoder = Fake()
    embed(prompts(), encoder, tmp_path, SHARD_ROWS)
    assert encoder.asked == []
    record = home / "00006.json"
    record.write_text(record.read_text().replace('"dimensions": 4', '"dimensions": 5'))
    embed(prompts(), encoder, tmp_path, SHARD_ROWS)
    assert len(encoder.asked) == ROWS - 6 * SHARD_ROWS


@pytest.mark.parametrize("killed", [None, "encoding", "writing"])
def test_processes_share_the_shards_and_each_is_made_once(tmp_path: Path, killed: str | None) -> None:
    """Each notes what it encodes; one may kill itself at its second shard, which another makes then: the others go on
    when it has, so that it gets there."""
    undisturbed = shard_bytes(embed(prompts(), Fake(), tmp_path / "undisturbed", SHARD_ROWS).folder)
    command = [python(), "-c", "from tests.embedding.examples import embed_and_note; embed_and_note()"]
    told = [killed or "nothing", *2 * ["await a death" if killed else "nothing"]]
    children = [subprocess.Popen([*command, str(tmp_path), die], cwd=ROOT) for die in told]
    ends = [child.wait() for child in children]
    assert [bool(end) for end in ends] == [bool(killed), False, False]
    (home,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert shard_bytes(home) == undisturbed
    assert sorted(path.name for path in home.glob(".*")) == []
    encoded = Counter((tmp_path / "encoded").read_text().split())
    again = [shard for shard, times in encoded.items() if times > 1]
    assert len(encoded) == SHARDS
    assert len(again) == (1 if killed else 0)
    assert is_told(home, home.name)


def fail(number: int) -> Callable[[Path, bytes], int]:
    """A Path.write_bytes that fails half-way through the second shard."""
    write_bytes = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if "00001.npy" not in path.name:
            return write_bytes(path, content)
        write_bytes(path, content[: len(content) // 2])
        raise OSError(number, os.strerror(number))

    return write


def test_a_full_disk_leaves_whole_shards_and_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_bytes", fail(errno.ENOSPC))
    with pytest.raises(UserError, match=r"is full.* 336 bytes.*run the same command again") as caught:
        embed(prompts(), Fake(), tmp_path, SHARD_ROWS)
    (home,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert str(home) in str(caught.value)
    assert sorted(path.name for path in home.iterdir()) == ["00000.npy", "00000.sealed"]


def test_other_write_errors_are_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_bytes", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        embed(prompts(), Fake(), tmp_path, SHARD_ROWS)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB that fill up."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_disk_that_is_really_full_is_told_and_resumed_from(tiny_disk: Path) -> None:
    pool = prompts([f"prompt {i}" for i in range(7_000)])  # 56 kB of vectors, but whole pages and records
    with pytest.raises(UserError, match="is full"):
        embed(pool, Fake(), tiny_disk / "cache", 1_000)
    whole = len(list(tiny_disk.glob("cache/*/*.sealed")))
    assert 0 < whole < 7
    subprocess.run(["mount", "-o", "remount,size=1m", tiny_disk], check=True)
    encoder = Fake()
    embed(pool, encoder, tiny_disk / "cache", 1_000)
    assert len(encoder.asked) == (7 - whole) * 1_000


def test_vectors_that_cannot_be_stored_name_their_rows(tmp_path: Path) -> None:
    pool = prompts(["small", "large", "nan", "other large", "another"])
    large = Fake(special={"large": 1e7, "other large": -1e7})
    with pytest.raises(
        UserError, match=r"rows 2, 6 of the collection are too large for float16; set .*=float32"
    ):
        embed(pool, large, tmp_path)
    vectors = embed(pool, dataclasses.replace(large, dtype="float32"), tmp_path)
    assert np.abs(vectors[:]).max() > 1e6
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match=r"rows 4 of the collection are not finite"):
            embed(pool, Fake(special={"nan": value}, dtype="float32"), tmp_path / str(value))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_blocks_of_a_parallel_session(tmp_path: Path, threads: int) -> None:
    wanted = shard_bytes(embed(prompts(), Fake(), tmp_path / "one", SHARD_ROWS).folder)
    encoder = Fake(parallel=True, seconds=0.01)
    vectors = embed(prompts(), encoder, tmp_path, executor=Threads(threads))
    np.testing.assert_array_equal(vectors[:], expected(prompts()).astype("float16"))
    assert len(encoder.threads) == threads
    assert sorted(encoder.asked) == sorted(prompts().texts.to_pylist())
    again = embed(prompts(), Fake(parallel=True), tmp_path / "many", SHARD_ROWS, Threads(threads))
    assert shard_bytes(again.folder) == wanted


def test_a_session_that_is_not_parallel_is_called_by_the_callers_thread_alone(tmp_path: Path) -> None:
    encoder = Fake()
    embed(prompts(), encoder, tmp_path, SHARD_ROWS, Threads(3))
    assert encoder.threads == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2])
def test_texts_that_an_encoder_refuses_are_told_by_their_rows(tmp_path: Path, threads: int) -> None:
    pool = prompts(["fine", "odd one", "also fine", "odd two and long"])
    encoder = Fake(refused=("odd one", "odd two and long"), parallel=True)
    with pytest.raises(
        UserError, match=r"^Prompts of rows 2, 6 of the collection: too odd; drop these rows$"
    ):
        embed(pool, encoder, tmp_path, executor=Threads(threads))


def test_blocks_are_small_where_texts_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for texts is bounded by their bytes, not only by their count; vectors are the same."""
    wanted = shard_bytes(embed(prompts(), Fake(), tmp_path / "whole", SHARD_ROWS).folder)
    sizes: list[list[int]] = []

    class Watching(Fake):
        def encode(self, texts: list[str]) -> Encoded:
            sizes.append([len(text) for text in texts])
            return super().encode(texts)

    monkeypatch.setattr(encoding, "BLOCK_BYTES", 40)
    vectors = embed(prompts(), Watching(), tmp_path, SHARD_ROWS)
    assert shard_bytes(vectors.folder) == wanted
    assert all(sum(block) <= 40 or len(block) == 1 for block in sizes)
    assert {len(block) for block in sizes} == {1, 2, 3}
