"""What every command's configuration rests on: composing, field types, keys, counts, and errors that come together."""

from smart.config.code import code_of, code_of_targets
from smart.config.compose import Composition, compose, conf_dir, read_config
from smart.config.counts import Count, parse_count
from smart.config.errors import ConfigError, Infeasible, Problems, UserError, nearest
from smart.config.keys import asked, deciding
from smart.config.options import declared, option
from smart.config.plurals import counted
from smart.config.reading import check_options, read_options

__all__ = [
    "Composition",
    "ConfigError",
    "Count",
    "Infeasible",
    "Problems",
    "UserError",
    "asked",
    "check_options",
    "code_of",
    "code_of_targets",
    "compose",
    "conf_dir",
    "counted",
    "deciding",
    "declared",
    "nearest",
    "option",
    "parse_count",
    "read_config",
    "read_options",
]
