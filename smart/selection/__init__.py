"""The paper's two stages: a collection becomes a mixture."""

from smart.selection.config import FunctionChoice, SelectConfig
from smart.selection.run import SelectedMixture, fetch, plan, select

__all__ = ["FunctionChoice", "SelectConfig", "SelectedMixture", "fetch", "plan", "select"]
