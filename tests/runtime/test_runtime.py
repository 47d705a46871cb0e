"""Manifests, locks, threads and progress."""

import logging
import threading
import time
from pathlib import Path

import pytest

from smart.runtime.executor import map_unordered
from smart.runtime.locks import locked
from smart.runtime.manifest import make_key
from smart.runtime.progress import progress


def test_a_key_names_config_inputs_and_version() -> None:
    key = make_key({"a": 1, "b": [2.5, None]}, ["x"], 1)
    assert key == make_key({"b": [2.5, None], "a": 1}, ["x"], 1)
    others = [make_key({"a": 1}, ["x"], 1), make_key({"a": 1, "b": [2.5, None]}, ["y"], 1)]
    others.append(make_key({"a": 1, "b": [2.5, None]}, ["x"], 2))
    assert len({key, *others}) == 4
    assert len(key) == 32


def test_one_holds_a_lock_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events = []

    def work(name: str) -> None:
        with locked(tmp_path / "key.lock"):
            events.append(f"{name} in")
            time.sleep(0.5)
            events.append(f"{name} out")

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event[2:] for event in events] == ["in", "out", "in", "out"]
    assert "Another process works on" in caplog.text


def test_work_is_done_once_each_and_an_error_stops_the_rest() -> None:
    assert sorted(map_unordered(lambda x: x * x, range(50), 2)) == [(x, x * x) for x in range(50)]
    started = []

    def fail(x: int) -> None:
        started.append(x)
        raise ValueError(x)

    with pytest.raises(ValueError, match="0"):
        list(map_unordered(fail, range(1000), 1))
    assert len(started) < 10


def test_progress_in_a_log_has_rate_and_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with progress(total=10, desc="Embedding", unit=" rows", mininterval=0) as bar:
        bar.start_t -= 5  # as if two seconds had passed, after which it speaks
        bar.delay = 0
        bar.update(5)
    assert caplog.text.count("Embedding:  50%") == 1, "and says nothing again at its end"
    assert "rows/s" in caplog.text
