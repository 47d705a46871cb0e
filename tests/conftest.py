"""Fixtures that every room's tests may use."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import absl.logging
import pytest

pytest_plugins = ["tests.commands"]

# Nothing that a library writes may land in the home folder or the clone, and nothing may reach for the network.
_SCRATCH = Path(tempfile.gettempdir()) / f"smart-tests-{os.getuid()}"
for _name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
    os.environ.pop(_name, None)  # then all of it goes below the folder of a run
(_SCRATCH / "hf_home").mkdir(parents=True, exist_ok=True)
os.environ["HF_HOME"] = str(_SCRATCH / "hf_home")
os.environ.update(
    HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false"
)
os.environ.pop("WANDB_API_KEY", None)

# A handler of absl's, which rouge_score brings, would close the stream of one test when another sets up logging.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the clone; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the folder of real data, ../shared, which is not beside this clone")
    return SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long matrices too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="a long matrix: make test-full runs it"))


@pytest.fixture(autouse=True)
def level_of_logging() -> Iterator[None]:
    """A process that stands for one beside the main one logs errors alone; the next test shall not."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)
