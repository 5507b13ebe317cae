"""Whole matrices out of the flat slices that ZeRO gives each process, for an update that cannot be made of pieces.

Each matrix has one owner among the processes that hold a piece of it. An all-to-all brings the other pieces there, the
owner works on the matrix, and another all-to-all takes the pieces back. So every matrix is worked on once, and
processes share the work. Where a slice ends inside a matrix (ZeRO-1 and 2) only that one travels; under ZeRO-3, which cuts
each parameter over all processes, every one does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sar_dist import distributed
from sar_dist.engine.protocol import Engine
from sar_dist.engine.shards import flat_shards, fragments


class Piece(NamedTuple):
    """What one process holds of a matrix in its flat shard: elements ``start`` to ``start + numel`` of it, at ``offset``."""

    rank: int
    start: int
    numel: int
    offset: int


@dataclass(frozen=True)
class Matrix:
    """A matrix and where it is.

    Attributes:
        shape: rows and columns.
        pieces: by rank; each process has one at most.
        owner: the rank that works on it.
    """

    shape: tuple[int, int]
    pieces: tuple[Piece, ...]
    owner: int


class WholeMatrices:
    """The matrices of one flat shard of an engine, and what is exchanged to have them whole.

    Args:
        matrices: all of them, in the same order on every process.
        rank: of this process.
        world_size: number of processes.
        device: where matrices are worked on, and which the process group can send from.
    """

    def __init__(self, matrices: list[Matrix], rank: int, world_size: int, device: torch.device) -> None:
        self.rank, self.device = rank, device
        self.owned = [matrix for matrix in matrices if matrix.owner == rank]
        self.travels = any(len(matrix.pieces) > 1 for matrix in matrices)
        to_owner: list[list[Piece]] = [[] for _ in range(world_size)]  # pieces of this process, by the matrix's owner
        of_owned: list[list[tuple[int, Piece]]] = [[] for _ in range(world_size)]  # others' pieces, by their process
        for matrix in matrices:
            for piece in matrix.pieces:
                if matrix.owner == rank != piece.rank:
                    of_owned[piece.rank].append((self.owned.index(matrix), piece))
                elif piece.rank == rank != matrix.owner:
                    to_owner[matrix.owner].append(piece)
        self.sent = [piece for pieces in to_owner for piece in pieces]
        self.sent_sizes = [sum(piece.numel for piece in pieces) for pieces in to_owner]
        self.arriving_sizes = [sum(piece.numel for _, piece in pieces) for pieces in of_owned]
        self.arriving: dict[int, list[tuple[int, Piece]]] = defaultdict(list)  # of an owned matrix: place and piece
        place = 0
        for number, piece in (entry for pieces in of_owned for entry in pieces):
            self.arriving[number].append((place, piece))
            place += piece.numel

    @torch.no_grad()
    def apply(self, flat: Tensor, work: Callable[[Tensor], Tensor]) -> None:
        """Replace every matrix in ``flat`` by ``work`` of it. Call on every process.

        Args:
            flat: values of this process's shard, float32 (N,); changed in place.
            work: a matrix (rows, columns) -> another of the same shape.
        """
        arrived = self._exchange(self._gathered(flat), self.sent_sizes, self.arriving_sizes)
        for number, matrix in enumerate(self.owned):
            others = self.arriving[number]
            (own,) = (piece for piece in matrix.pieces if piece.rank == self.rank)
            if not others:
                held = flat[own.offset : own.offset + own.numel]
                held.copy_(work(held.to(self.device).view(matrix.shape)).reshape(-1))
                continue
            whole = flat.new_empty(matrix.shape[0] * matrix.shape[1], device=self.device)
            whole[own.start : own.start + own.numel] = flat[own.offset : own.offset + own.numel]
            for place, piece in others:
                whole[piece.start : piece.start + piece.numel] = arrived[place : place + piece.numel]
            done = work(whole.view(matrix.shape)).reshape(-1)
            flat[own.offset : own.offset + own.numel] = done[own.start : own.start + own.numel]
            for place, piece in others:  # goes back as it came
                arrived[place : place + piece.numel] = done[piece.start : piece.start + piece.numel]
        returned, place = self._exchange(arrived, self.arriving_sizes, self.sent_sizes), 0
        for piece in self.sent:
            flat[piece.offset : piece.offset + piece.numel] = returned[place : place + piece.numel]
            place += piece.numel

    def _gathered(self, flat: Tensor) -> Tensor:
        sent, place = flat.new_empty(sum(self.sent_sizes), device=self.device), 0
        for piece in self.sent:
            sent[place : place + piece.numel] = flat[piece.offset : piece.offset + piece.numel]
            place += piece.numel
        return sent

    def _exchange(self, sent: Tensor, sent_sizes: list[int], arriving_sizes: list[int]) -> Tensor:
        arrived = sent.new_empty(sum(arriving_sizes))
        if self.travels:
            dist.all_to_all_single(arrived, sent, arriving_sizes, sent_sizes)
        return arrived


def whole_matrices(engine: Engine, shapes: Mapping[str, tuple[int, int]]) -> list[WholeMatrices]:
    """For each flat shard of an engine, the matrices in it. Call on every process.

    Args:
        engine: whose parameters ZeRO has flattened.
        shapes: rows and columns of the parameters that are meant, by name.
    """
    held = [(f.shard, f.name, f.start, f.numel, f.offset) for f in fragments(engine) if f.name in shapes]
    pieces: dict[tuple[int, str], list[Piece]] = defaultdict(list)
    for rank, of_rank in enumerate(distributed.gather_objects(held)):
        for shard, name, start, numel, offset in of_rank:
            pieces[shard, name].append(Piece(rank, start, numel, offset))
    ranks = distributed.world_size()
    found = []
    for shard in range(len(flat_shards(engine))):
        of_shard = {name: tuple(where) for (number, name), where in sorted(pieces.items()) if number == shard}
        matrices = with_owners({name: shapes[name] for name in of_shard}, of_shard, ranks)
        found.append(WholeMatrices(matrices, distributed.rank(), ranks, engine.device))
    return found


def with_owners(
    shapes: Mapping[str, tuple[int, int]], pieces: Mapping[str, tuple[Piece, ...]], world_size: int
) -> list[Matrix]:
    """Give each matrix, the costliest first, to the process with the least work among those that hold a piece of it."""
    work = dict.fromkeys(range(world_size), 0)
    owners = {}
    for name in sorted(shapes, key=lambda name: (len(pieces[name]) > 1, -_cost(shapes[name]), name)):
        owners[name] = min((piece.rank for piece in pieces[name]), key=lambda rank: (work[rank], rank))
        work[owners[name]] += _cost(shapes[name])
    return [Matrix(shapes[name], pieces[name], owners[name]) for name in shapes]


def _cost(shape: tuple[int, int]) -> int:
    """What the products of a matrix with its transpose take, up to a factor."""
    return shape[0] * shape[1] * min(shape)
