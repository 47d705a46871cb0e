"""Prompts become vectors on disk: encoders, the store of their vectors, and task means."""

from smart.embedding.contract import check_encoder
from smart.embedding.encoders import Encoded, Encoder, Session, Unencodable
from smart.embedding.precomputed import Precomputed
from smart.embedding.prompts import Memory, Prompts
from smart.embedding.sentence_transformers import SentenceTransformers
from smart.embedding.store import EmbeddingPlan, embed, plan_embedding
from smart.embedding.vectors import TaskStatistics, Vectors, task_statistics
from smart.embedding.wordllama import WordLlama
from smart.runtime.contracts import ContractError

__all__ = [
    "ContractError",
    "EmbeddingPlan",
    "Encoded",
    "Encoder",
    "Memory",
    "Precomputed",
    "Prompts",
    "SentenceTransformers",
    "Session",
    "TaskStatistics",
    "Unencodable",
    "Vectors",
    "WordLlama",
    "check_encoder",
    "embed",
    "plan_embedding",
    "task_statistics",
]
