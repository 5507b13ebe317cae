"""Which of several data sets each position of the sequence of training samples is of: a pure function of their weights.

Two sets take turns as the pixels of a digital line do (Bresenham 1965): of the first n positions, the first set has
n w rounded to the nearest whole number, w being its share. Any window of consecutive positions, wherever it begins, then has
the first set's share of them to within less than one sample.

Of more sets, the two with the smallest weights are put together until one is left, as in Huffman's code, and each pair
shares out its positions in that way. Where the shares of three sets or more cannot all be kept to within one sample (Fraenkel's
conjecture), a set that is d pairs deep is off by less than 1 + s_d (1 + s_(d-1) (...)), its shares in those pairs.

Nothing is drawn and nothing is remembered: which set a position is of, and how many of its samples came before, are
d divisions of whole numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple


class _Pair(NamedTuple):
    """Two members, or pairs of them, that share positions as ``first`` to ``whole - first``."""

    left: _Pair | int
    right: _Pair | int
    first: int
    whole: int

    def before(self, positions: int) -> int:
        """How many of the first so many positions of this pair are the left one's: the nearest whole number."""
        return (2 * positions * self.first + self.whole) // (2 * self.whole)


class Mixture:
    """An endless sequence in which each of several sets has its share of the positions.

    Args:
        weights: of the sets, in any unit; above 0.
    """

    def __init__(self, weights: Sequence[Fraction | int]) -> None:
        unit = lcm(*(Fraction(weight).denominator for weight in weights))
        self._weights = [int(Fraction(weight) * unit) for weight in weights]
        # The number makes the order of equal weights, and so the sequence, the same everywhere.
        heap: list[tuple[int, int, _Pair | int]] = [(weight, i, i) for i, weight in enumerate(self._weights)]
        heapq.heapify(heap)
        for number in range(len(weights), 2 * len(weights) - 1):
            (light, _, right), (heavy, _, left) = heapq.heappop(heap), heapq.heappop(heap)
            pair = _Pair(left, right, heavy, light + heavy)
            heapq.heappush(heap, (light + heavy, number, pair))
        self._root = heap[0][2]

    @property
    def shares(self) -> list[Fraction]:
        """Of each set; together 1."""
        return [Fraction(weight, sum(self._weights)) for weight in self._weights]

    def at(self, position: int) -> tuple[int, int]:
        """The set that ``position`` is of, and how many positions before it are of the same set."""
        node = self._root
        while isinstance(node, _Pair):
            left = node.before(position)
            if node.before(position + 1) > left:
                node, position = node.left, left
            else:
                node, position = node.right, position - left
        return node, position

    def counts(self, positions: int) -> list[int]:
        """How many of the first ``positions`` are of each set."""
        counts = [0] * len(self._weights)
        nodes = [(self._root, positions)]
        while nodes:
            node, number = nodes.pop()
            if isinstance(node, _Pair):
                left = node.before(number)
                nodes += [(node.left, left), (node.right, number - left)]
            else:
                counts[node] = number
        return counts
