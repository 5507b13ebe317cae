"""L2-regularised multinomial logistic regression in float64: scikit-learn's, and the same optimum by torch's L-BFGS.

Both minimise ``C * sum of cross-entropies + |W|^2 / 2`` with a free intercept, which has one minimum only. torch's runs on
a GPU; scikit-learn is the reference that tests compare it with.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sar_dist.errors import UserError

Solver = Literal["sklearn", "torch"]

# scipy stops when the objective falls by less than this share of itself; scikit-learn leaves it no other choice.
_SCIPY_LEAST_FALL = 64 * np.finfo(np.float64).eps
_MEMORY = 10  # scipy's number of corrections


@dataclass(frozen=True)
class LogisticRegressionFit:
    """A fitted classifier.

    Attributes:
        weight: float64 (K, D), a row for each class of ``labels``.
        intercept: float64 (K,).
        labels: (K,) the classes that occurred in training, ascending.
        iterations: of L-BFGS.
        converged: stopped by its own criterion, not by the limit of iterations.
    """

    weight: NDArray[np.float64]
    intercept: NDArray[np.float64]
    labels: NDArray[np.int64]
    iterations: int
    converged: bool

    def decide(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Logits (n, K) of ``features`` (n, D)."""
        logits: NDArray[np.float64] = features.astype(np.float64) @ self.weight.T + self.intercept
        return logits


def fit_logistic_regression(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    inverse_strength: float,
    *,
    solver: Solver,
    tolerance: float,
    max_iterations: int,
    device: torch.device,
) -> LogisticRegressionFit:
    """Fit one classifier.

    Args:
        features: (n, D).
        labels: (n,); need not be consecutive.
        inverse_strength: C.
        solver: which implementation.
        tolerance: largest element of the gradient (of the mean objective) at which to stop.
        max_iterations: at most.
        device: where torch's computes.

    Raises:
        UserError: fewer than two classes occur.
    """
    present, targets = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise UserError("logistic regression needs training samples of two classes or more")
    if solver == "sklearn":
        return _fit_sklearn(features, targets, present, inverse_strength, tolerance, max_iterations)
    return _fit_torch(features, targets, present, inverse_strength, tolerance, max_iterations, device)


def _fit_sklearn(
    features: NDArray[np.floating],
    targets: NDArray[np.int64],
    present: NDArray[np.int64],
    inverse_strength: float,
    tolerance: float,
    max_iterations: int,
) -> LogisticRegressionFit:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # slow to import

    estimator = LogisticRegression(C=inverse_strength, tol=tolerance, max_iter=max_iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(features.astype(np.float64), targets)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    weight, intercept = estimator.coef_, estimator.intercept_
    if len(present) == 2:  # one row, of the second class against the first
        weight, intercept = np.concatenate([-weight, weight]) / 2, np.concatenate([-intercept, intercept]) / 2
    return LogisticRegressionFit(weight, intercept, present, int(estimator.n_iter_.max()), converged)


def _fit_torch(
    features: NDArray[np.floating],
    targets: NDArray[np.int64],
    present: NDArray[np.int64],
    inverse_strength: float,
    tolerance: float,
    max_iterations: int,
    device: torch.device,
) -> LogisticRegressionFit:
    inputs = torch.from_numpy(features).to(device, torch.float64)  # n D
    wanted = torch.from_numpy(targets).to(device)
    # As a row for each of two classes, W and -W have half the square of scikit-learn's single row of 2 W.
    strength = (2.0 if len(present) == 2 else 1.0) / (inverse_strength * len(inputs))
    weight = torch.zeros(len(present), inputs.shape[1], dtype=torch.float64, device=device, requires_grad=True)
    intercept = torch.zeros(len(present), dtype=torch.float64, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, intercept],
        max_iter=max_iterations,
        max_eval=50 * max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=float(_SCIPY_LEAST_FALL),
        history_size=_MEMORY,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + intercept, wanted) + strength / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[arg-type]
    iterations = int(optimizer.state[weight]["n_iter"])
    return LogisticRegressionFit(
        weight.detach().cpu().numpy(),
        intercept.detach().cpu().numpy(),
        present,
        iterations,
        iterations < max_iterations,
    )
