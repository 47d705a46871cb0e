"""FLAN-style collections: many sources, one schema. Texts in, rows out."""

from smart.collection.files import Files
from smart.collection.flan2022 import Flan2022
from smart.collection.groups import Groups
from smart.collection.loading import Source, load
from smart.collection.natural_instructions import NaturalInstructions
from smart.collection.reasoning_gym import ReasoningGym
from smart.collection.schema import SCHEMA, Collection

__all__ = [
    "SCHEMA",
    "Collection",
    "Files",
    "Flan2022",
    "Groups",
    "NaturalInstructions",
    "ReasoningGym",
    "Source",
    "load",
]
