"""Base models: found, loaded, quantised, adapted, merged; and the one place where text becomes tokens."""

from smart.model.base import Base, find_base, load_tokenizer, weights_source
from smart.model.options import ChatOptions, ModelOptions, TuningOptions
from smart.model.tokens import Tokens, encode, fits

__all__ = [
    "Base",
    "ChatOptions",
    "ModelOptions",
    "Tokens",
    "TuningOptions",
    "encode",
    "find_base",
    "fits",
    "load_tokenizer",
    "weights_source",
]
