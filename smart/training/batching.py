"""How the rows of a step are cut into micro-batches and dealt to processes: arithmetic on lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MICRO_BATCH_COST = 128
"""What a micro-batch costs beside its tokens, as a number of tokens: a pass over the weights, in 4 bits also their
dequantisation. Padding is worth a further micro-batch only where it is more than this."""


@dataclass(frozen=True)
class Batching:
    """Rows to micro-batches: of so many rows each, or of as many as fit into so many tokens."""

    micro_batch_size: int
    tokens: int | None = None
    """What a micro-batch may compute, padding included; a longer row is one of its own. None: micro_batch_size."""
    packing: bool = False
    """Rows lie end to end, so nothing is padded and rows of any lengths share a micro-batch."""

    def cut(self, lengths: np.ndarray, world: int) -> list[list[np.ndarray]]:
        """Cut the rows of a step.

        Args:
            lengths: tokens of each row, int64 (rows,).
            world: number of processes.

        Returns:
            Positions in `lengths` by round and process: [round][process] → int64 (rows of that micro-batch,). A
            process has one micro-batch in each round, perhaps an empty one.
        """
        order = np.argsort(-lengths, kind="stable")
        if self.tokens is None:
            parts = _by_count(order, self.micro_batch_size, world)
        elif self.packing:
            parts = _packed(order, lengths, self.tokens, world)
        else:
            parts = _padded(order, lengths, self.tokens, world)
        tokens = np.array([self.computed(lengths[part]) for part in parts])
        owners = _to_the_least_loaded(tokens, world)
        by_size = np.argsort(-tokens, kind="stable")
        own = [[parts[part] for part in by_size if owners[part] == rank] for rank in range(world)]
        nothing = np.empty(0, np.int64)
        rounds = max(map(len, own))
        return [[mine[number] if number < len(mine) else nothing for mine in own] for number in range(rounds)]

    def computed(self, lengths: np.ndarray) -> int:
        """Tokens that a micro-batch of rows of these lengths computes."""
        if not len(lengths):
            return 0
        return int(lengths.sum() if self.packing else lengths.max() * len(lengths))


def _by_count(order: np.ndarray, size: int, world: int) -> list[np.ndarray]:
    """As few rounds as can be, in each of which the processes have equally many rows, but for one; like lengths."""
    return np.array_split(order, math.ceil(len(order) / (size * world)) * world)


def _packed(order: np.ndarray, lengths: np.ndarray, tokens: int, world: int) -> list[np.ndarray]:
    """As few rounds as can be: rows longest first, each to the micro-batch with the fewest tokens."""
    rounds = math.ceil(int(np.minimum(lengths, tokens).sum()) / (tokens * world))
    while True:
        places = rounds * world
        owners = _to_the_least_loaded(lengths[order], places, room=len(order))
        loads, rows = np.bincount(owners, lengths[order], places), np.bincount(owners, minlength=places)
        if not np.any((loads > tokens) & (rows > 1)):
            return [order[owners == part] for part in range(places)]
        rounds += 1


def _padded(order: np.ndarray, lengths: np.ndarray, tokens: int, world: int) -> list[np.ndarray]:
    """Runs of rows sorted by length, cut where padding and micro-batches together cost least.

    On several processes runs must also be short enough to be shared out evenly, so a few bounds are tried and the one
    with the least work on the slowest process is taken.
    """
    sorted_lengths = lengths[order]
    longest = int(sorted_lengths[0])
    fair = max(longest, int(sorted_lengths.sum()) / world)
    bounds = {tokens} | {
        min(tokens, max(longest, int(fair * share))) for share in (1.1, 0.8, 0.55, 0.35, 0.2)
    }
    tried = [_cheapest_runs(sorted_lengths, bound) for bound in sorted(bounds, reverse=True)]
    best = min(tried, key=lambda cuts: _slowest(sorted_lengths, cuts, world))
    return np.split(order, best)


def _cheapest_runs(lengths: np.ndarray, limit: int) -> np.ndarray:
    """Where to cut descending lengths, so that padded tokens plus MICRO_BATCH_COST a run are fewest (a shortest path).

    Returns:
        Positions of the cuts, ascending, without 0 and the end: int64 (runs - 1,).
    """
    rows = len(lengths)
    cost, before = np.full(rows + 1, np.inf), np.zeros(rows + 1, np.int64)
    cost[0] = 0
    for first in range(rows):
        most = min(rows - first, max(1, limit // int(lengths[first])))
        reached = slice(first + 1, first + most + 1)
        candidate = cost[first] + MICRO_BATCH_COST + lengths[first] * np.arange(1, most + 1)
        better = candidate < cost[reached]
        cost[reached] = np.where(better, candidate, cost[reached])
        before[reached] = np.where(better, first, before[reached])
    cuts = [int(before[rows])]
    while cuts[-1] > 0:
        cuts.append(int(before[cuts[-1]]))
    return np.array(cuts[-2::-1], np.int64)


def _slowest(lengths: np.ndarray, cuts: np.ndarray, world: int) -> float:
    """Cost of the process that works longest, in tokens."""
    tokens = lengths[np.concatenate([[0], cuts])] * np.diff(cuts, prepend=0, append=len(lengths))
    owners = _to_the_least_loaded(tokens, world)
    rounds = np.bincount(owners, minlength=world).max()
    return float(np.bincount(owners, tokens, world).max() + MICRO_BATCH_COST * rounds)


def _to_the_least_loaded(tokens: np.ndarray, places: int, room: int | None = None) -> np.ndarray:
    """The largest first, each to the place with the fewest tokens so far that has room for one more.

    Args:
        room: how many a place can have; None: as few as hold all, so that places have equally many, but for one.

    Returns:
        The place of each: int64 (parts,).
    """
    room = math.ceil(len(tokens) / places) if room is None else room
    loads, taken, owners = np.zeros(places), np.zeros(places, np.int64), np.empty(len(tokens), np.int64)
    for part in np.argsort(-tokens, kind="stable"):
        owners[part] = place = int(np.where(taken < room, loads, np.inf).argmin())
        loads[place] += tokens[part]
        taken[place] += 1
    return owners
