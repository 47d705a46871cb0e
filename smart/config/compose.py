"""From conf/ and overrides to a configuration, as a command's own line composes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from smart.config.errors import ConfigError, Problems
from smart.config.explain import explain_composition
from smart.config.reading import read_options

if TYPE_CHECKING:
    from omegaconf import DictConfig

Options = TypeVar("Options")


@dataclass(frozen=True)
class Composition:
    """A composed configuration, still without types."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Every key, interpolations resolved."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Which file of each group was chosen: {"fn": "graphcut"}."""
    overrides: tuple[str, ...] = ()
    """The words of the command line that set keys."""
    hydra_overrides: tuple[str, ...] = ()
    """Those that set Hydra's own."""
    config_dirs: tuple[str, ...] = ()
    """Folders of the user's own configurations (--config-dir)."""
    flags: tuple[str, ...] = ()
    """What else says where the configuration comes from: --config-dir, --config-path, --config-name."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """`values` before interpolations are resolved, from which runs of a grid are named."""

    @classmethod
    def of(cls, command: str, config: DictConfig, hydra: Any) -> Composition:
        """From what Hydra hands over: the configuration, and its own part of it."""
        from omegaconf import OmegaConf

        def plain(resolve: bool) -> dict[str, Any]:
            found = OmegaConf.to_container(config, resolve=resolve)
            assert isinstance(found, dict)
            return {str(key): value for key, value in found.items()}

        own = {
            flag: [s.path for s in hydra.runtime.config_sources if s.provider == provider]
            for flag, provider in {"--config-dir": "command-line", "--config-path": "main"}.items()
        }
        own["--config-path"] = [path for path in own["--config-path"] if path != str(conf_dir())]
        own["--config-name"] = [hydra.job.config_name] if hydra.job.config_name != command else []
        return cls(
            values=plain(resolve=True),
            choices={str(key): str(value) for key, value in hydra.runtime.choices.items()},
            overrides=tuple(hydra.overrides.task),
            hydra_overrides=tuple(hydra.overrides.hydra),
            config_dirs=tuple(own["--config-dir"]),
            flags=tuple(f"{flag}={value}" for flag, values in own.items() for value in values),
            raw=plain(resolve=False),
        )


def compose(command: str, overrides: Sequence[str] = (), config_class: type | None = None) -> Composition:
    """What `python COMMAND.py OVERRIDES` would compose.

    Args:
        config_class: the command's options, for a hint about names that they replaced.

    Raises:
        ConfigError: for keys and choices that do not exist.
    """
    from hydra import compose as compose_config
    from omegaconf import OmegaConf

    with _hydra_on_conf():
        try:
            config = compose_config(command, list(overrides), return_hydra_config=True)
        except Exception as error:
            message = explain_composition(error, config_class)
            if message is None:
                raise
            raise ConfigError(message) from error
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return Composition.of(command, ours, config.hydra)


@contextmanager
def _hydra_on_conf() -> Iterator[None]:
    """Hydra on conf/: the one of this command, with the user's own folders, or a new one beside another program's."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    hydra, before = GlobalHydra.instance(), None
    if hydra.is_initialized():
        before = hydra.hydra
        known = [
            Path(str(part.path).removeprefix("file://"))
            for part in hydra.config_loader().get_search_path().get_path()
        ]
        if conf_dir() in known:
            yield
            return
        hydra.clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before  # leaving may have made another instance


def read_config(cls: type[Options], composed: Composition) -> Options:
    """A command's typed configuration.

    Args:
        cls: its dataclass of options, with a field `composed`.

    Raises:
        ConfigError: with every wrong value.
    """
    problems = Problems()
    config = read_options(
        cls, composed.values, problems, choices=composed.choices, extra={"composed": composed}
    )
    problems.raise_if_any()
    assert config is not None
    return config


def conf_dir() -> Path:
    """The folder of YAML files: conf/ of a clone or an editable install, or its copy inside the wheel.

    Raises:
        FileNotFoundError: where neither is there, since no command can start.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "select.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/ folder beside or inside {package}; reinstall smart")
