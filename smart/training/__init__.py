"""Training: a mixture and a base model become an adapter."""

from smart.training.config import TrainConfig
from smart.training.run import TrainedAdapter, fetch, plan, train

__all__ = ["TrainConfig", "TrainedAdapter", "fetch", "plan", "train"]
