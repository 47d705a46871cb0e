"""Prompts become vectors on disk: encoders, the store of their vectors, and task means."""

from smart.embedding.encoders import Encoded, Encoder, Session, WordLlama
from smart.embedding.precomputed import Precomputed
from smart.embedding.prompts import Prompts
from smart.embedding.sentence_transformers import SentenceTransformers
from smart.embedding.store import Outlook, embed, look_up
from smart.embedding.vectors import Summary, Vectors, summarize

__all__ = [
    "Encoded",
    "Encoder",
    "Outlook",
    "Precomputed",
    "Prompts",
    "SentenceTransformers",
    "Session",
    "Summary",
    "Vectors",
    "WordLlama",
    "embed",
    "look_up",
    "summarize",
]
