"""Solvers, factorisations and eigenvalues: pointwise FLOPs, never MACs.

Direct methods (triangular solves, LU, Cholesky) cost what their definition does, operation by operation:
LAPACK Working Note 41 (Blackford & Dongarra 1999), appendix C, lists the same polynomials. Orthogonal
factorisations cost the leading terms of Golub & Van Loan (Matrix Computations, 4th edition, 2013), to which
the sections below refer. Iterations (eigenvalues, singular values) take the counts that the book gives for
the number of steps seen in practice. A complex matrix costs four times the real one, as its products do.

Matrices are (*batch, m, n); p = min(m, n), q = max(m, n).
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

from inspector.tracing.formulas.registry import Cost, first, formula
from inspector.tracing.record import TensorSpec

_Number = int | Fraction


def _work(a: TensorSpec, flops: _Number) -> Cost:
    """`flops` of real arithmetic for each matrix of `a`."""
    return _all(a, prod(a.shape[:-2]) * flops)


def _all(a: TensorSpec, flops: _Number) -> Cost:
    return Cost(0, round(flops) * (4 if a.dtype.startswith("complex") else 1))


# Triangular systems. Row i of n takes i - 1 products, as many subtractions, and a division: n * n in all,
# n * (n - 1) where the diagonal is one (3.1).


@formula("aten.linalg_solve_triangular")
def solve_triangular(
    out: Any, a: TensorSpec, b: TensorSpec, *, unitriangular: bool = False, **_: Any
) -> Cost:
    return _all(a, first(out).numel * (a.shape[-1] - unitriangular))


@formula("aten.triangular_solve")
def triangular_solve(
    out: Any,
    b: TensorSpec,
    a: TensorSpec,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
    **_: Any,
) -> Cost:
    return solve_triangular(out, a, b, unitriangular=unitriangular)


# LU. Step k of p divides the m - k elements below the pivot, and updates (m - k) * (n - k) with a product and
# a subtraction (3.2). A system is then a triangular solve with ones on the diagonal, and one without.


def lu(m: int, n: int) -> int:
    """The sum of (m - k) * (1 + 2 * (n - k)) over k = 1 ... p; 2/3 n^3 - n^2/2 - n/6 where m = n."""
    p = min(m, n)
    linear, square = p * (p + 1) // 2, p * (p + 1) * (2 * p + 1) // 6
    return p * m * (1 + 2 * n) - linear * (1 + 2 * n + 2 * m) + 2 * square


@formula("aten.linalg_lu_factor_ex", "aten.linalg_lu_factor", "aten.linalg_lu")
def lu_factor(out: Any, a: TensorSpec, **_: Any) -> Cost:
    return _work(a, lu(*a.shape[-2:]))


@formula("aten.linalg_lu_solve", "aten.linalg_ldl_solve")
def lu_solve(out: Any, factor: TensorSpec, *_: Any, **__: Any) -> Cost:
    """For each right-hand side n * n + n * (n - 1). LDL divides by the diagonal between two solves with ones
    on theirs: the same."""
    return _all(factor, first(out).numel * (2 * factor.shape[-1] - 1))


@formula("aten._linalg_solve_ex")
def solve(out: Any, a: TensorSpec, *_: Any, **__: Any) -> Cost:
    factored, solved = lu_factor(out, a), lu_solve(out, a)
    return Cost(0, factored.pointwise + solved.pointwise)


@formula("aten.linalg_inv_ex")
def inverse(out: Any, a: TensorSpec, **_: Any) -> Cost:
    """2 n^3: the factors, and 4/3 n^3 to invert and to join them (working note 41, getrf and getri)."""
    return _work(a, 2 * a.shape[-1] ** 3)


@formula("aten._linalg_det")
def det(out: Any, a: TensorSpec) -> Cost:
    """The product of the factor's diagonal, and the sign of the permutation."""
    return _work(a, lu(*a.shape[-2:]) + a.shape[-1])


@formula("aten._linalg_slogdet")
def slogdet(out: Any, a: TensorSpec) -> Cost:
    """For each element of the diagonal its sign and the product of signs, absolute value, logarithm, sum."""
    return _work(a, lu(*a.shape[-2:]) + 5 * a.shape[-1])


# Symmetric systems (4.2). Half of LU, and a root for each pivot: n^3/3 + n^2/2 + n/6.


@formula("aten.linalg_cholesky_ex", "aten.linalg_ldl_factor_ex")
def cholesky(out: Any, a: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Step k takes a root, n - k divisions, and updates (n - k) * (n - k + 1) / 2 elements with a product and
    a subtraction. LDL has no roots, but one more product for each row that it updates (4.4)."""
    n = a.shape[-1]
    return _work(a, n + n * (n - 1) // 2 + (n - 1) * n * (n + 1) // 3)


@formula("aten.cholesky_solve", "aten._cholesky_solve_helper")
def cholesky_solve(out: Any, b: TensorSpec, factor: TensorSpec, *_: Any) -> Cost:
    """Two triangular solves."""
    return _all(factor, 2 * first(out).numel * factor.shape[-1])


@formula("aten.cholesky_inverse")
def cholesky_inverse(out: Any, factor: TensorSpec, *_: Any) -> Cost:
    """2/3 n^3 + n^2/2 + 5/6 n: the inverse of the factor times its transpose (working note 41, potri)."""
    n = factor.shape[-1]
    return _work(factor, Fraction(4 * n**3 + 3 * n**2 + 5 * n, 6))


# Householder (5.1, 5.2). A reflection of length l changes a column with l products and sums, twice: 4 l.


def householder_qr(m: int, n: int) -> Fraction:
    """The factor R, and the reflections: 2 p^2 (q - p/3), also where the matrix is wide (5.2.2)."""
    p, q = min(m, n), max(m, n)
    return 2 * p**2 * (q - Fraction(p, 3))


def product_of_reflections(m: int, n: int, k: int) -> Fraction:
    """The first n columns of the product of k: 4 m n k - 2 (m + n) k^2 + 4/3 k^3 (5.1.6)."""
    return 4 * m * n * k - 2 * (m + n) * k**2 + Fraction(4 * k**3, 3)


@formula("aten.geqrf")
def geqrf(out: Any, a: TensorSpec) -> Cost:
    return _work(a, householder_qr(*a.shape[-2:]))


@formula("aten.linalg_qr")
def qr(out: Any, a: TensorSpec, mode: str = "reduced", **_: Any) -> Cost:
    """R, and the p (reduced) or m (complete) columns of Q."""
    m, n = a.shape[-2:]
    p = min(m, n)
    columns = {"r": 0, "reduced": p, "complete": m}[mode]
    return _work(a, householder_qr(m, n) + (product_of_reflections(m, columns, p) if columns else 0))


@formula("aten.linalg_householder_product")
def householder_product(out: Any, a: TensorSpec, tau: TensorSpec) -> Cost:
    m, n = a.shape[-2:]
    return _work(a, product_of_reflections(m, n, tau.shape[-1]))


@formula("aten.ormqr")
def ormqr(
    out: Any, a: TensorSpec, tau: TensorSpec, other: TensorSpec, left: bool = True, transpose: bool = False
) -> Cost:
    """k reflections of lengths m, m - 1, ... change c columns (rows on the right): 2 c k (2 m - k)."""
    m, k = other.shape[-2 if left else -1], tau.shape[-1]
    return _work(other, 2 * other.shape[-1 if left else -2] * k * (2 * m - k))


@formula("aten.linalg_lstsq")
def lstsq(
    out: Any, a: TensorSpec, b: TensorSpec, rcond: Any = None, *, driver: str | None = None, **_: Any
) -> Cost:
    """QR, its reflections on each right-hand side, and a triangular solve (5.3); with the drivers gelsd and
    gelss the singular values, and two products and a division by them."""
    m, n = a.shape[-2:]
    p, q = min(m, n), max(m, n)
    rows = prod(a.shape[:-1])
    sides = b.numel // rows if rows else 0
    if driver in ("gelsd", "gelss"):
        return _work(a, _thin_svd(m, n) + sides * (2 * m * p + p + 2 * n * p))
    return _work(a, householder_qr(m, n) + sides * (2 * p * (2 * q - p) + p**2))


# Eigenvalues and singular values.


@formula("aten._linalg_eigh")
def eigh(out: Any, a: TensorSpec, uplo: str = "L", compute_v: bool = True, **_: Any) -> Cost:
    """Symmetric: 4/3 n^3 to the tridiagonal form; about 9 n^3 with the vectors (8.3)."""
    return _work(a, (9 if compute_v else Fraction(4, 3)) * a.shape[-1] ** 3)


@formula("aten.linalg_eig")
def eig(out: Any, a: TensorSpec) -> Cost:
    """General: 25 n^3 for the Schur form with its vectors (7.5.6)."""
    return _work(a, 25 * a.shape[-1] ** 3)


@formula("aten.linalg_eigvals", "aten._linalg_eigvals")
def eigvals(out: Any, a: TensorSpec) -> Cost:
    """10 n^3 (7.5.6)."""
    return _work(a, 10 * a.shape[-1] ** 3)


@formula("aten._linalg_svd")
def svd(out: Any, a: TensorSpec, full_matrices: bool = False, compute_uv: bool = True, **_: Any) -> Cost:
    """The method of Golub and Reinsch (8.6): the values alone 4 q p^2 - 4/3 p^3; with p vectors on each side
    14 q p^2 + 8 p^3; with all vectors 4 q^2 p + 8 q p^2 + 9 p^3."""
    m, n = a.shape[-2:]
    p, q = min(m, n), max(m, n)
    if not compute_uv:
        return _work(a, 4 * q * p**2 - Fraction(4 * p**3, 3))
    return _work(a, _full_svd(p, q) if full_matrices else _thin_svd(m, n))


def _full_svd(p: int, q: int) -> int:
    return 4 * q**2 * p + 8 * q * p**2 + 9 * p**3


def _thin_svd(m: int, n: int) -> int:
    """All vectors hold the thin ones: of the two counts the smaller (for a square matrix 21 n^3)."""
    p, q = min(m, n), max(m, n)
    return min(14 * q * p**2 + 8 * p**3, _full_svd(p, q))


@formula("aten.linalg_pinv")
def pinv(out: Any, a: TensorSpec, *_: Any, hermitian: bool = False, **__: Any) -> Cost:
    """V / s times U': thin singular vectors (eigenvectors of a symmetric matrix), p divisions of n elements,
    and a product of 2 m n p (5.5)."""
    m, n = a.shape[-2:]
    p = min(m, n)
    return _work(a, (9 * n**3 if hermitian else _thin_svd(m, n)) + n * p + 2 * m * n * p)


@formula("aten.linalg_matrix_exp")
def matrix_exp(out: Any, a: TensorSpec) -> Cost:
    """The Taylor polynomial of degree 18, the largest that torch takes, in five products: 10 n^3 (Bader,
    Blanes & Casas 2019). How often a matrix of large norm is halved first, and the result squared, depends on
    its values, and is not counted."""
    return _work(a, 10 * a.shape[-1] ** 3)


@formula("aten.linalg_cross")
def cross(out: Any, a: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Each element is a difference of two products."""
    return Cost(0, 3 * first(out).numel)
