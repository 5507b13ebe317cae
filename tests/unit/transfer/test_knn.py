"""Weighted nearest neighbours against scikit-learn's, at any size and in any blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from sar_dist import distributed
from sar_dist.config import apply_overrides
from sar_dist.errors import UserError
from sar_dist.transfer.tasks.probes import knn
from sar_dist.transfer.tasks.probes.knn import NearestNeighbourSettings, nearest, weighted_knn

CPU = torch.device("cpu")


def clusters(count: int, seed: int, classes: int = 7, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of overlapping clusters, so that neighbours disagree."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (count,), generator=generator)
    return centres[labels] + 1.5 * torch.randn(count, width, generator=generator), labels


def sklearn_predictions(queries, bank, labels, k, temperature=0.07):
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    return model.fit(bank.double().numpy(), labels.numpy()).predict(queries.double().numpy())


def test_predictions_are_scikit_learns():
    bank, labels = clusters(900, 0)
    queries, _ = clusters(400, 1)
    found = weighted_knn(queries, bank, labels, 7, (1, 10, 20, 100, 200), 0.07, CPU)
    for k, order in found.items():
        assert order.shape == (400, 5)
        np.testing.assert_array_equal(order[:, 0], sklearn_predictions(queries, bank, labels, k))
    assert (found[1][:, 1:] == -1).all(), "a class without a vote is no prediction"
    assert len({tuple(order[:, 0]) for order in found.values()}) >= 4, "the test would not notice k"


def test_the_second_best_class_has_the_second_most_votes():
    bank, labels = clusters(300, 2)
    queries, _ = clusters(50, 3)
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    probabilities = model.fit(bank.double().numpy(), labels.numpy()).predict_proba(queries.double().numpy())
    expected = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    expected = np.where(np.take_along_axis(probabilities, expected, 1) > 0, expected, -1)
    np.testing.assert_array_equal(weighted_knn(queries, bank, labels, 7, (20,), 0.07, CPU)[20], expected)


@pytest.mark.parametrize("temperature", [0.01, 0.001, 1e-5, 1e-300])
def test_a_small_temperature_counts_the_nearest_most(temperature):
    """exp(similarity / temperature) would be infinite from 0.0014 on: equal votes, of which the lowest class won."""
    bank, labels = clusters(300, 0)
    queries, _ = clusters(100, 1)
    found = weighted_knn(queries, bank, labels, 7, (20,), temperature, CPU)[20]
    unit = [F.normalize(features, dim=1) for features in (queries, bank)]
    similarity, neighbours = (unit[0] @ unit[1].T).double().topk(20, dim=1)
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = torch.zeros(100, 7, dtype=torch.float64).scatter_add_(1, labels[neighbours], weights)
    np.testing.assert_array_equal(found[:, 0], votes.argmax(dim=1))
    assert (found[:, 1] >= 0).sum() == (labels[neighbours] != labels[neighbours[:, :1]]).any(dim=1).sum(), (
        "a class with a neighbour is among the best, however small its vote"
    )


@pytest.mark.parametrize("queries", [1, 3, 99])
@pytest.mark.parametrize("bank", [1, 8])
def test_few_queries_and_a_bank_smaller_than_k(queries, bank):
    features, labels = clusters(bank, 4)
    asked, _ = clusters(queries, 5)
    found = weighted_knn(asked, features, labels, 7, (10, 200), 0.07, CPU)
    expected = sklearn_predictions(asked, features, labels, bank)
    for order in found.values():
        np.testing.assert_array_equal(order[:, 0], expected)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_a_bank_in_blocks_is_the_whole_bank_also_with_duplicates(block):
    generator = torch.Generator().manual_seed(6)
    # Small integers: products are exact, and many are equal.
    bank = torch.randint(-2, 3, (150, 4), generator=generator).float()
    queries = torch.randint(-2, 3, (20, 4), generator=generator).float()
    values, rows = nearest(queries, bank, 30, block)
    similarity = queries @ bank.T
    order = torch.argsort(similarity, dim=1, descending=True, stable=True)[:, :30]
    assert (similarity.gather(1, order).diff(dim=1) == 0).any()
    assert torch.equal(rows, order)
    assert torch.equal(values, similarity.gather(1, order))


def test_processes_share_the_queries(monkeypatch):
    bank, labels = clusters(300, 7)
    queries, _ = clusters(200, 8)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 32)
    whole = weighted_knn(queries, bank, labels, 7, (10, 20), 0.07, CPU)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)

        def keep(value):
            shares.append(value)
            return [{start: {k: np.zeros((0, 5), dtype=np.int32) for k in (10, 20)} for start in range(0, 200, 32)}]

        monkeypatch.setattr(distributed, "gather_objects", keep)
        weighted_knn(queries, bank, labels, 7, (10, 20), 0.07, CPU)
    starts = [start for share in shares for start in share]
    assert sorted(starts) == list(range(0, 200, 32))
    assert all(share for share in shares)
    merged = {start: block for share in shares for start, block in share.items()}
    for k in (10, 20):
        np.testing.assert_array_equal(np.concatenate([merged[start][k] for start in sorted(merged)]), whole[k])


def test_settings():
    assert apply_overrides(NearestNeighbourSettings, ["k=[50,5,5]", "quoted_k=5"]).k == (5, 50)
    with pytest.raises(UserError, match="quoted_k=20 is not one of"):
        apply_overrides(NearestNeighbourSettings, ["k=[5]"])
    with pytest.raises(UserError, match="must be 1 or more"):
        apply_overrides(NearestNeighbourSettings, ["k=[0,20]"])
