"""What is logged comes once on the screen, whoever logs it."""

from __future__ import annotations

import io
import logging
import logging.config
from collections.abc import Iterator

import datasets
import huggingface_hub
import pytest
import transformers
from omegaconf import OmegaConf

from smart.config import conf_dir

# Loading them adds their handlers.
LIBRARIES = [huggingface_hub.__name__, transformers.__name__, datasets.__name__, "lm_eval"]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything on standard error, logging set up as commands do it."""
    text = io.StringIO()
    root, before = logging.getLogger(), (logging.root.handlers[:], logging.root.level)
    monkeypatch.setattr("sys.stderr", text)
    root.handlers = []
    logging.config.dictConfig(
        OmegaConf.to_container(OmegaConf.load(conf_dir() / "hydra/job_logging/smart.yaml"))
    )  # type: ignore[arg-type]
    yield text
    root.handlers, root.level = before


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("propagate", [True, False])
def test_what_a_library_shows_comes_once(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, library: str, propagate: bool
) -> None:
    logger = logging.getLogger(library)
    handlers = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
    if not handlers:  # lm-eval adds its own when its command is run
        handlers = [logging.StreamHandler()]
        monkeypatch.setattr(logger, "handlers", handlers)
    for handler in handlers:
        monkeypatch.setattr(handler, "stream", screen)
    monkeypatch.setattr(logger, "propagate", propagate)
    logging.getLogger(f"{library}.some.part").error("said")
    assert screen.getvalue().count("said") == 1


def test_what_no_library_shows_is_shown(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("smart.somewhere").info("ours")
    silent = logging.getLogger("a_library")
    monkeypatch.setattr(silent, "handlers", [logging.NullHandler()])
    silent.warning("theirs")
    assert [line.partition(" ")[2] for line in screen.getvalue().splitlines()] == ["ours", "theirs"]
