"""Solvers, factorisations, scaled sums, assertions and distributions have a cost, derived by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributions as D
from torch import nn

import inspector
from inspector.profiling.views.totals import totals
from inspector.tracing.capture import capture

A = (2, 3, 3)
"""A batch of two matrices of 3 x 3."""


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


# Products that are added to something: two elements of bias, 2 x 4 by 4 x 2.

SCALED: dict[str, tuple[dict[str, float], int]] = {
    "as they are": ({}, 4),  # one sum for each of 4 elements
    "beta": ({"beta": 3}, 4 + 2),  # and 2 elements of the bias times beta
    "alpha": ({"alpha": 3}, 4 + 4),
    "both": ({"beta": 3, "alpha": 3}, 4 + 2 + 4),
    "beta of zero": ({"beta": 0}, 0),  # the bias is not read
    "beta of zero, and alpha": ({"beta": 0, "alpha": 3}, 4),
}


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(("scales", "flops"), SCALED.values(), ids=SCALED)
def test_alpha_and_beta_multiply(scales: Any, flops: int, device: str, count: Any) -> None:
    a, b, bias = (torch.ones(shape, device=device) for shape in ((2, 4), (4, 2), (2,)))
    counted = count(lambda x, a, b: torch.addmm(x, a, b, **scales), bias, a, b, device=device)
    assert (counted.macs, counted.pointwise) == (2 * 4 * 2, flops)
    batched = count(lambda x, a, b: torch.addbmm(x, a, b, **scales), bias, a[None], b[None], device=device)
    assert (batched.macs, batched.pointwise) == (2 * 4 * 2, flops)
    batched = count(lambda x, a, b: torch.baddbmm(x, a, b, **scales), bias, a[None], b[None], device=device)
    assert (batched.macs, batched.pointwise) == (2 * 4 * 2, flops)


def test_alpha_and_beta_of_a_vector_and_of_an_outer_product(count: Any, meta: Any) -> None:
    scaled = count(lambda x, a, b: torch.addmv(x, a, b, alpha=2, beta=2), meta(3), meta(3, 5), meta(5))
    assert (scaled.macs, scaled.pointwise) == (3 * 5, 3 + 3 + 3)
    # 15 products, 15 sums, 15 times alpha, 15 times beta
    outer = count(lambda x, a, b: torch.addr(x, a, b, alpha=2, beta=2), meta(3, 5), meta(3), meta(5))
    assert (outer.macs, outer.pointwise) == (0, 60)
    outer = count(lambda x, a, b: torch.addr(x, a, b), meta(3, 5), meta(3), meta(5))
    assert (outer.macs, outer.pointwise) == (0, 30)


COSTS: dict[str, tuple[Any, ...]] = {
    # Substitution in 3 rows: 0 + 1 + 2 products, as many subtractions, 3 divisions: 9. Four right-hand sides.
    "triangular": ("linalg_solve_triangular", (2, 3, 4), (A, (2, 3, 4)), {"upper": True}, 2 * 4 * 9),
    "triangular, right": (
        "linalg_solve_triangular", (2, 4, 3), (A, (2, 4, 3)), {"upper": True, "left": False}, 2 * 4 * 9,
    ),
    "triangular, ones": (
        "linalg_solve_triangular", (2, 3, 4), (A, (2, 3, 4)), {"upper": True, "unitriangular": True},
        2 * 4 * 6,
    ),
    "old triangular": ("triangular_solve", [(2, 3, 4), A], ((2, 3, 4), A), {}, 2 * 4 * 9),
    # 3 x 3: 2 divisions and 4 updates of 2, then 1 and 1 of 2: 10 + 3.
    "lu": ("linalg_lu_factor_ex", [A], (A,), {}, 2 * 13),
    # 3 x 2: 2 divisions and 2 updates of 2, then 1 division. 2 x 3: 1 division and 2 updates of 2.
    "lu, tall": ("linalg_lu", [(3, 2)], ((3, 2),), {}, 7),
    "lu, wide": ("linalg_lu", [(2, 3)], ((2, 3),), {}, 5),
    # A solve with ones on the diagonal (6) and one without (9), for four right-hand sides.
    "lu solve": ("linalg_lu_solve", (2, 3, 4), (A, (2, 3), (2, 3, 4)), {}, 2 * 4 * 15),
    "solve": ("_linalg_solve_ex", [(2, 3, 4), A], (A, (2, 3, 4)), {}, 2 * (13 + 4 * 15)),
    "solve, vectors": ("_linalg_solve_ex", [(2, 3), A], (A, (2, 3)), {}, 2 * (13 + 15)),
    "inverse": ("linalg_inv_ex", [A], (A,), {}, 2 * 2 * 27),
    "det": ("_linalg_det", [(2,), A], (A,), {}, 2 * (13 + 3)),
    "slogdet": ("_linalg_slogdet", [(2,), (2,), A], (A,), {}, 2 * (13 + 15)),
    # A root, 2 divisions, 3 updates of 2; a root, a division, an update of 2; a root: 9 + 4 + 1.
    "cholesky": ("linalg_cholesky_ex", [A], (A,), {}, 2 * 14),
    "cholesky, one": ("linalg_cholesky_ex", [(1, 1)], ((1, 1),), {}, 1),
    "cholesky solve": ("cholesky_solve", (2, 3, 4), ((2, 3, 4), A), {}, 2 * 4 * 18),
    # 2/3 27 + 9/2 + 5/2
    "cholesky inverse": ("cholesky_inverse", A, (A,), {}, 2 * 25),
    # 2 p^2 (q - p/3) with p = 3, q = 6: 90; the same again for 3 columns of Q; 6 columns of Q:
    # 4 (36 * 3 - 6 * 9 + 9) = 252.
    "qr, r": ("linalg_qr", [(0,), (3, 3)], ((6, 3), "r"), {}, 90),
    "qr": ("linalg_qr", [(6, 3), (3, 3)], ((6, 3),), {}, 180),
    "qr, complete": ("linalg_qr", [(6, 6), (6, 3)], ((6, 3), "complete"), {}, 90 + 252),
    # R of 3 x 6 is 90 too; Q is 3 x 3: 4/3 27.
    "qr, wide": ("linalg_qr", [(3, 3), (3, 6)], ((3, 6),), {}, 90 + 36),
    "geqrf": ("geqrf", [(6, 3), (3,)], ((6, 3),), {}, 90),
    "householder": ("linalg_householder_product", (6, 3), ((6, 3), (3,)), {}, 90),
    # Three reflections of 5 columns of 6: 2 * 5 * 3 * (12 - 3).
    "ormqr": ("ormqr", (6, 5), ((6, 3), (3,), (6, 5)), {}, 270),
    "ormqr, right": ("ormqr", (5, 6), ((6, 3), (3,), (5, 6), False), {}, 270),
    # QR 90; for each of 5 sides 2 * 3 * (12 - 3) = 54 and a triangular solve of 9.
    "least squares": ("linalg_lstsq", [(3, 5)], ((6, 3), (6, 5)), {}, 90 + 5 * 63),
    "least squares, vector": ("linalg_lstsq", [(3,)], ((6, 3), (6,)), {}, 90 + 63),
    "least squares, svd": (
        # 14 * 6 * 9 + 8 * 27 = 972; products 2 * 6 * 3 and 2 * 3 * 3, three divisions
        "linalg_lstsq", [(3, 5)], ((6, 3), (6, 5)), {"driver": "gelsd"}, 972 + 5 * (36 + 18 + 3),
    ),
    "eigh": ("_linalg_eigh", [(2, 3), A], (A,), {}, 2 * 9 * 27),
    "eigvalsh": ("_linalg_eigh", [(2, 3), (0,)], (A, "L", False), {}, 2 * 36),
    "eig": ("linalg_eig", [(2, 3), A], (A,), {}, 2 * 25 * 27),
    "eigvals": ("linalg_eigvals", (2, 3), (A,), {}, 2 * 10 * 27),
    # 4 * 6 * 9 - 4/3 27; thin 972; full 4 * 36 * 3 + 8 * 6 * 9 + 9 * 27
    "svdvals": ("_linalg_svd", [(0,), (3,), (0,)], ((6, 3), False, False), {}, 216 - 36),
    "svd": ("_linalg_svd", [(6, 3), (3,), (3, 3)], ((6, 3),), {}, 972),
    "svd, wide": ("_linalg_svd", [(3, 3), (3,), (3, 6)], ((3, 6),), {}, 972),
    "svd, full": ("_linalg_svd", [(6, 6), (3,), (3, 3)], ((6, 3), True), {}, 432 + 432 + 243),
    "svd, square": ("_linalg_svd", [A, (2, 3), A], (A,), {}, 2 * 21 * 27),
    # The singular vectors, 3 x 3 divisions, 3 x 3 by 3 x 6.
    "pinv": ("linalg_pinv", (3, 6), ((6, 3),), {}, 972 + 9 + 108),
    "pinv, symmetric": ("linalg_pinv", A, (A,), {"hermitian": True}, 2 * (9 * 27 + 9 + 54)),
    "exponential": ("linalg_matrix_exp", A, (A,), {}, 2 * 10 * 27),
    "cross": ("linalg_cross", (2, 3), ((2, 3), (2, 3)), {}, 2 * 9),  # 6 products, 3 differences
    "renorm": ("renorm", (2, 3), ((2, 3), 2, 0, 1.0), {}, 18),
    # 2 x 4 pairs of 3 coordinates: a difference, two products, a sum
    "cdist": ("_cdist_backward", (2, 3), ((2, 4), (2, 3), (4, 3), 2.0, (2, 4)), {}, 2 * 4 * 3 * 4),
    "mvlgamma": ("mvlgamma", (5,), ((5,), 3), {}, 5 * 9),
    "all": ("_is_all_true", (), ((2, 3),), {}, 6),
    "any": ("_is_any_true", (), ((2, 3),), {}, 6),
    "assertion": ("_functional_assert_async", (), ((), "message", ()), {}, 0),
    "range": ("sym_constrain_range", (), (3,), {"min": 1, "max": 4}, 0),
}  # fmt: skip


@pytest.mark.parametrize(("name", "outputs", "args", "options", "flops"), COSTS.values(), ids=COSTS)
def test_cost_of_an_operator(
    name: str, outputs: Any, args: Any, options: Any, flops: int, price: Any
) -> None:
    cost = price(f"aten.{name}", outputs, *args, **options)
    assert (cost.macs, cost.pointwise, cost.activations) == (0, flops, 0)


def positive(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], device=x.device)


L = torch.linalg
FUNCTIONS = {
    "solve": lambda x: L.solve(positive(x), x),
    "solve_triangular": lambda x: L.solve_triangular(positive(x), x, upper=True),
    "lu_solve": lambda x: L.lu_solve(*L.lu_factor(positive(x)), x),
    "lu": lambda x: L.lu(positive(x))[1],
    "inv": lambda x: L.inv(positive(x)),
    "det": lambda x: L.det(positive(x)),
    "slogdet": lambda x: L.slogdet(positive(x))[1],
    "cholesky": lambda x: L.cholesky(positive(x)),
    "cholesky_solve": lambda x: torch.cholesky_solve(x, L.cholesky(positive(x))),
    "cholesky_inverse": lambda x: torch.cholesky_inverse(L.cholesky(positive(x))),
    "qr": lambda x: L.qr(positive(x))[1],
    "householder": lambda x: L.householder_product(positive(x), x[0]),
    "ormqr": lambda x: torch.ormqr(positive(x), x[0], x),
    "eigh": lambda x: L.eigh(positive(x))[0],
    "eigvals": lambda x: L.eigvals(positive(x)).real,
    "svd": lambda x: L.svd(positive(x))[1],
    "pinv": lambda x: L.pinv(positive(x)),
    "lstsq": lambda x: L.lstsq(positive(x), x)[0],
    "matrix_exp": lambda x: L.matrix_exp(x),
    "matrix_power": lambda x: L.matrix_power(positive(x), -3),
    "cond": lambda x: L.cond(positive(x)),
    "cdist": lambda x: torch.cdist(x, 2 * x),
    "renorm": lambda x: torch.renorm(x, 2, 0, 1.0),
    "cross": lambda x: L.cross(x[:, :3], x[:, :3] + 1),
    "addr": lambda x: torch.addr(x, x[0], x[1], alpha=2),
}
ONLY_ON_THE_CPU = {"lstsq"}


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_nothing_of_linear_algebra_is_unknown(phase: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 5)
    for name, function in FUNCTIONS.items():
        sums = {}
        for device in ("cpu",) if name in ONLY_ON_THE_CPU else ("meta", "cpu"):
            inputs = (x.to(device, copy=True).requires_grad_(phase == "train"),)
            trace = capture(Function(function), inputs, phase=phase, device=device)
            assert not [op.name for op in trace.ops if not op.known], name
            sums[device] = {k: totals(trace)[k] for k in ("macs", "pointwise_flops", "bytes_moved")}
        assert sums.get("meta", sums["cpu"]) == sums["cpu"], name


def test_a_complex_matrix_costs_four_times_the_real_one(count: Any, meta: Any) -> None:
    real, complex_ = (
        count(L.cholesky, meta(3, 3, dtype=dtype)) for dtype in (torch.float32, torch.complex64)
    )
    assert (real.pointwise, complex_.pointwise) == (14, 56)


# Distributions, with their assertions.


def rates(x: torch.Tensor) -> torch.Tensor:
    return x.abs() + 0.5


def unit(x: torch.Tensor) -> torch.Tensor:
    return x.sigmoid()


DISTRIBUTIONS: dict[str, Any] = {
    "bernoulli": lambda x: D.Bernoulli(unit(x)),
    "beta": lambda x: D.Beta(rates(x), rates(x)),
    "binomial": lambda x: D.Binomial(5, unit(x)),
    "categorical": lambda x: D.Categorical(rates(x)),
    "cauchy": lambda x: D.Cauchy(x, rates(x)),
    "chi2": lambda x: D.Chi2(rates(x)),
    "continuous bernoulli": lambda x: D.ContinuousBernoulli(unit(x)),
    "dirichlet": lambda x: D.Dirichlet(rates(x)),
    "exponential": lambda x: D.Exponential(rates(x)),
    "fisher": lambda x: D.FisherSnedecor(rates(x), rates(x)),
    "gamma": lambda x: D.Gamma(rates(x), rates(x)),
    "geometric": lambda x: D.Geometric(unit(x)),
    "gumbel": lambda x: D.Gumbel(x, rates(x)),
    "half cauchy": lambda x: D.HalfCauchy(rates(x)),
    "half normal": lambda x: D.HalfNormal(rates(x)),
    "independent": lambda x: D.Independent(D.Normal(x, rates(x)), 1),
    "inverse gamma": lambda x: D.InverseGamma(rates(x), rates(x)),
    "kumaraswamy": lambda x: D.Kumaraswamy(rates(x), rates(x)),
    "laplace": lambda x: D.Laplace(x, rates(x)),
    "lkj": lambda x: D.LKJCholesky(3, rates(x)),
    "log normal": lambda x: D.LogNormal(x, rates(x)),
    "logistic normal": lambda x: D.LogisticNormal(x, rates(x)),
    "low rank": lambda x: D.LowRankMultivariateNormal(x[0], x[:, :2], rates(x[0])),
    "mixture": lambda x: D.MixtureSameFamily(D.Categorical(rates(x[0])), D.Normal(x[0], rates(x[0]))),
    "multinomial": lambda x: D.Multinomial(5, rates(x)),
    "multivariate": lambda x: D.MultivariateNormal(x[0], positive(x)),
    "multivariate, precision": lambda x: D.MultivariateNormal(x[0], precision_matrix=positive(x)),
    "negative binomial": lambda x: D.NegativeBinomial(5, unit(x)),
    "normal": lambda x: D.Normal(x, rates(x)),
    "one-hot": lambda x: D.OneHotCategorical(rates(x)),
    "one-hot, straight through": lambda x: D.OneHotCategoricalStraightThrough(rates(x)),
    "pareto": lambda x: D.Pareto(rates(x), rates(x)),
    "poisson": lambda x: D.Poisson(rates(x)),
    "relaxed bernoulli": lambda x: D.RelaxedBernoulli(torch.tensor(0.5), unit(x)),
    "relaxed one-hot": lambda x: D.RelaxedOneHotCategorical(torch.tensor(0.5), rates(x)),
    "student": lambda x: D.StudentT(rates(x) + 2),
    "transformed": lambda x: D.TransformedDistribution(D.Normal(x, rates(x)), [D.TanhTransform()]),
    "uniform": lambda x: D.Uniform(x, x + rates(x)),
    "von mises": lambda x: D.VonMises(x, rates(x)),
    "weibull": lambda x: D.Weibull(rates(x), rates(x)),
    "wishart": lambda x: D.Wishart(torch.tensor(6.0), positive(x)),
}


def uses(make: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Draws, densities, entropy and divergence, as far as the distribution has them."""
    one, other = make(x), make(x * 0.9)
    sample = one.rsample() if one.has_rsample else one.sample()
    results = [sample, one.log_prob(one.sample())]
    for more in (one.entropy, lambda: D.kl_divergence(one, other)):
        try:
            results.append(more())
        except NotImplementedError:
            continue
        except RuntimeError:  # exponential families differentiate, which no_grad forbids
            assert not torch.is_grad_enabled()
    return results


@pytest.mark.parametrize("make", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_no_operator_of_a_distribution_is_unknown(make: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 4).requires_grad_()
    for phase in ("forward", "train"):
        trace = capture(Function(lambda x: uses(make, x)), (x,), phase=phase, device="cpu")
        assert not [op.name for op in trace.ops if not op.known], phase


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        choice = D.Categorical(logits=self.head(x), validate_args=True)
        return choice.log_prob(choice.sample())


def test_a_policy_that_draws_is_no_lower_bound() -> None:
    report = inspector.profile(Policy(), "2x8")
    assert report.metrics["unknown_ops"].value == 0
    assert not report.metrics["macs"].lower_bound
    assert report.metrics["macs"].value == 2 * 8 * 4
