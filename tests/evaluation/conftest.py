from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation import examples


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums differ in their last digits with the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return examples.save_adapter(tmp_path_factory.mktemp("adapter") / "trained", model)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built benchmarks and models; answers have a folder for each test that looks at them."""
    return tmp_path_factory.mktemp("cache")
