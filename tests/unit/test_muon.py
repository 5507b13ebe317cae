"""Muon: which parameters it takes, torch's own as the reference, and whole matrices out of pieces on any number of processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import timm
import torch
from torch import Tensor

from sar_dist.config import ModelSettings, OptimSettings, RegularizerSettings
from sar_dist.engine import optimizer_of
from sar_dist.engine.muon import Muon, MuonWithAdamW
from sar_dist.engine.whole_matrices import Piece, WholeMatrices, with_owners
from sar_dist.models import model_on_meta, parameter_groups

SHAPES = {"a": (4, 6), "b": (5, 3), "c": (2, 2), "d": (8, 3)}


def settings(**options: object) -> Muon:
    built = optimizer_of(OptimSettings(name="muon", options=options))
    assert isinstance(built, Muon)
    return built


@pytest.mark.parametrize("adjust_lr", ["match_rms_adamw", "original"])
def test_whole_matrices_take_the_steps_of_torchs_muon(adjust_lr: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((6, 4), (4, 8))]
    ours, theirs = ([weight.clone().requires_grad_() for weight in start] for _ in range(2))
    group = {"params": ours, "lr": 0.01, "weight_decay": 0.1, "matrices": {"a": (6, 4), "b": (4, 8)}}
    optimizer = settings(adjust_lr=adjust_lr).build([group], 0.01)
    expected = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn=adjust_lr)
    for _ in range(20):
        for our, their in zip(ours, theirs, strict=True):
            our.grad = torch.randn(our.shape, generator=generator)
            their.grad = our.grad.clone()
        optimizer.step()
        expected.step()
    for our, their, old in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)
        assert (our - old).abs().max() > 0.02


def test_an_update_is_orthogonal_where_enough_iterations_are_made() -> None:
    weight = torch.zeros(6, 4, requires_grad=True)
    group = {"params": [weight], "lr": 1.0, "weight_decay": 0.0, "matrices": {"a": (6, 4)}}
    optimizer = settings(adjust_lr="original", iterate_in="float32", lr_factor=0.5).build([group], 1.0)
    weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach() / (0.5 * 1.5**0.5))
    assert 0.6 < values.min() < values.max() < 1.3  # where the coefficients of the iteration end


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_matrices_of_blocks_are_muons_and_all_else_adamws(name: str) -> None:
    size = 224
    vit = model_on_meta(ModelSettings(name=name, image_size=size), RegularizerSettings(weight=0)).vit
    groups = parameter_groups(vit, lr=1.0, weight_decay=0.3, layer_decay=0.5)
    apart = settings().arranged(groups, vit)
    taken = {name for group in apart if group["matrices"] for name in group["matrices"]}
    assert taken == {
        n for n, p in timm.create_model(name).named_parameters() if n.startswith("blocks.") and p.ndim == 2
    }
    assert sum(len(group["params"]) for group in apart) == len(list(vit.parameters()))
    rates = {name: group["lr"] for group in apart for name in group["matrices"] or ()}
    assert rates["blocks.11.attn.proj.weight"] == 2 * rates["blocks.10.attn.proj.weight"] == 0.5
    optimizer = settings().build(apart, 1.0)
    for group in apart:
        state = settings().new_state(group["params"][0], group)
        assert state.keys() == ({"step", "momentum"} if group["matrices"] else {"step", "exp_avg", "exp_avg_sq"})
    assert isinstance(optimizer, MuonWithAdamW)


def pieces_of(cuts: list[int]) -> dict[str, tuple[Piece, ...]]:
    """The matrices one after the other in a flat tensor that is cut at ``cuts``, as ZeRO-1 does."""
    found, start = {}, 0
    for name, (rows, columns) in SHAPES.items():
        end, held = start + rows * columns, []
        for rank, (first, last) in enumerate(pairwise(cuts)):
            left, right = max(start, first), min(end, last)
            if left < right:
                held.append(Piece(rank, left - start, right - left, left - first))
        found[name], start = tuple(held), end
    return found


@contextmanager
def all_to_all_between_threads(monkeypatch: pytest.MonkeyPatch, world_size: int) -> Iterator[None]:
    """``all_to_all_single`` for threads named by their rank."""
    meeting, box = threading.Barrier(world_size), {}

    def exchange(arrived: Tensor, sent: Tensor, arriving_sizes: list[int], sent_sizes: list[int]) -> None:
        rank = int(threading.current_thread().name)
        box[rank] = sent.split(sent_sizes)
        meeting.wait(10)
        got = [box[source][rank] for source in range(world_size)]
        assert [len(part) for part in got] == arriving_sizes
        arrived.copy_(torch.cat(got))
        meeting.wait(10)

    monkeypatch.setattr(torch.distributed, "all_to_all_single", exchange)
    yield


@pytest.mark.parametrize("cuts", [[0, 80], [0, 40, 80], [0, 24, 39, 43, 70], [0, 3, 9, 41, 41, 43, 66, 80]])
def test_every_matrix_is_worked_on_once_and_whole(cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    world_size = len(cuts) - 1
    matrices = with_owners(SHAPES, pieces_of(cuts), world_size)
    whole = torch.randn(cuts[-1], generator=torch.Generator().manual_seed(0))
    shards = [whole[first:last].clone() for first, last in pairwise(cuts)]
    worked: list[tuple[int, ...]] = []

    def work(matrix: Tensor) -> Tensor:
        worked.append(tuple(matrix.shape))
        return torch.linalg.pinv(matrix).mT

    def of_rank(rank: int) -> None:
        WholeMatrices(matrices, rank, world_size, torch.device("cpu")).apply(shards[rank], work)

    with all_to_all_between_threads(monkeypatch, world_size):
        threads = [threading.Thread(target=of_rank, args=(rank,), name=str(rank)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected, place = whole.clone(), 0
    for rows, columns in SHAPES.values():
        matrix = whole[place : place + rows * columns].view(rows, columns)
        expected[place : place + rows * columns] = torch.linalg.pinv(matrix).mT.reshape(-1)
        place += rows * columns
    torch.testing.assert_close(torch.cat(shards), expected[: cuts[-1]])
    assert sorted(worked) == sorted(SHAPES.values())


def test_processes_share_the_matrices_that_all_of_them_hold() -> None:
    shapes = {f"block{number}": (8, 8) for number in range(6)}
    everywhere = {name: tuple(Piece(rank, 16 * rank, 16, 0) for rank in range(4)) for name in shapes}
    owners = [matrix.owner for matrix in with_owners(shapes, everywhere, 4)]
    assert sorted(owners.count(rank) for rank in range(4)) == [1, 1, 2, 2]
