"""FLAN-style collections: many sources, one schema. Texts in, rows out."""

from smart.collection.check import Part
from smart.collection.contract import check_source
from smart.collection.files import Files
from smart.collection.flan2022 import Flan2022
from smart.collection.groups import Groups
from smart.collection.hub import Hub
from smart.collection.loading import HeldOut, Reading, Source, load
from smart.collection.natural_instructions import NaturalInstructions
from smart.collection.reasoning_gym import ReasoningGym
from smart.collection.schema import CHAT_SCHEMA, SCHEMA, Collection
from smart.reading import Fault
from smart.runtime.contracts import ContractError

__all__ = [
    "CHAT_SCHEMA",
    "SCHEMA",
    "Collection",
    "ContractError",
    "Fault",
    "Files",
    "Flan2022",
    "Groups",
    "HeldOut",
    "Hub",
    "NaturalInstructions",
    "Part",
    "Reading",
    "ReasoningGym",
    "Source",
    "check_source",
    "load",
]
