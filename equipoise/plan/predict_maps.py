"""Random weights of which only what is asked for is drawn: exact in law, without the matrix.

A batch of K vectors meets a weight of n x n entries. Normal entries map an orthonormal basis of
the batch to independent normal vectors, a Haar rotation maps it to a Haar frame; whatever else the
weight does stays undecided until a cotangent asks for it, which is then drawn given what is known.
So one draw of a layer costs n K numbers in place of n^2, with the joint law of signals and
gradients that whole matrices would give.

Arrays have shape (draws, units, rows).
"""

import numpy as np

from equipoise.schemes.laws import Array

# Squared distance of a unit column from the span of those before it below which it is one of them.
_PARALLEL = 1e-6
_SPANNED = 1e-12
# Share of a vector beyond what is known, below which it is rounding.
_ROUNDING = 1e-9
# Share of the energy of a vector below which its rest is projected again.
_CLOSE = 1e-4
# Vectors in a batch over size of the space from which on a matrix is drawn whole.
_MANY = 0.5
# Vectors from which on they are, whatever the size.
_MOST = 64


def triangular(x: Array, least: float = _PARALLEL) -> tuple[Array, Array]:
    """Orthonormal columns q and triangular r with x = q r; columns that others span are 0 in q.

    By Cholesky factors of the Gram matrix of unit columns. Columns nearer than sqrt(``least``) to
    the span of those before them become part of it, an error of ``least`` in energy.

    Args:
        x: shape (draws, n, k).
        least: squared distance below which a column is dependent.

    Returns:
        q of shape (draws, n, k) and r of shape (draws, k, k).

    >>> q, r = triangular(np.array([[[3.0, 3.0], [4.0, 4.0], [0.0, 2.0]]]))
    >>> np.allclose(q @ r, [[3, 3], [4, 4], [0, 2]]), np.allclose(q[0].T @ q[0], np.eye(2))
    (True, True)
    """
    norms = np.sqrt(np.einsum("bnk,bnk->bk", x, x))
    if x.shape[2] == 1:
        q = x / np.where(norms > 0, norms, 1.0)[:, None, :]
        return q, norms[:, :, None]
    y = x / np.where(norms > 0, norms, 1.0)[:, None, :]
    gram = y.transpose(0, 2, 1) @ y
    count = x.shape[2]
    r = np.zeros_like(gram)
    inverse = np.zeros_like(gram)
    for k in range(count):
        pivot = gram[:, k, k]
        alive = pivot > least
        scale = np.where(alive, 1.0 / np.sqrt(np.where(alive, pivot, 1.0)), 0.0)
        row = gram[:, k, k:] * scale[:, None]
        r[:, k, k:] = row
        gram[:, k + 1 :, k + 1 :] -= row[:, 1:, None] * row[:, None, 1:]
        # Column k of the inverse, from the columns before it.
        inverse[:, :, k] = -np.einsum("bij,bj->bi", inverse[:, :, :k], r[:, :k, k])
        inverse[:, k, k] += 1.0
        inverse[:, :, k] *= scale[:, None]
    return y @ inverse, r * norms[:, None, :]


class Entries:
    """Independent normal entries, shape (rows, columns) in every draw."""

    def __init__(self, rng: np.random.Generator, rows: int, columns: int, std: float) -> None:
        self._rng, self._rows, self._columns, self._std = rng, rows, columns, std
        self._domain = self._image = np.zeros((1, 0, 0))

    def forward(self, x: Array) -> Array:
        """W x."""
        count = x.shape[2]
        if count >= min(_MANY * self._columns, _MOST):
            # So many vectors ask for nearly the whole matrix.
            shape = (len(x), self._rows, self._columns)
            self._domain = np.eye(self._columns)[None]
            self._image = self._std * self._rng.standard_normal(shape)
            return np.asarray(self._image @ x)
        self._domain, r = triangular(x)
        self._image = self._std * self._rng.standard_normal((len(x), self._rows, count))
        return _times(self._image, r)

    def back(self, u: Array) -> Array:
        """W^T u, given what W did to x."""
        known = self._domain
        if known.shape[1] == known.shape[2]:
            return np.asarray(self._image.transpose(0, 2, 1) @ u)
        q, r = triangular(u)
        fresh = self._std * self._rng.standard_normal((len(u), self._columns, u.shape[2]))
        seen = _products(self._image, q) - _products(known, fresh)
        return _times(fresh + _times(known, seen), r)


class Rotation:
    """A Haar-distributed rotation of R^size, known on the vectors that have met it.

    ``domain`` and ``image`` are orthonormal columns of shape (size, m) of which it is known from
    the start that one becomes the other.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: int,
        domain: Array | None = None,
        image: Array | None = None,
    ) -> None:
        self._rng, self.size = rng, size
        self._known: list[tuple[Array, Array]] = []
        self._count = 0
        if domain is not None and image is not None:
            self._known.append((domain[None], image[None]))
            self._count = domain.shape[1]

    def forward(self, x: Array) -> Array:
        """O x, for as many leading coordinates as x has; the others are 0."""
        return self._reveal(self._padded(x), 0)

    def back(self, u: Array) -> Array:
        """O^T u."""
        return self._reveal(self._padded(u), 1)

    def whole(self, draws: int) -> Array:
        """All of the rotation, shape (draws, size, size)."""
        return self.forward(np.broadcast_to(np.eye(self.size), (draws, self.size, self.size)))

    def _padded(self, x: Array) -> Array:
        missing = self.size - x.shape[1]
        return np.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x

    def _complete(self, draws: int) -> None:
        """Draw the whole rotation, given what is known at the start."""
        left = self.size - self._count
        domain = np.eye(self.size)[:, self._count :][None]
        fresh = self._rng.standard_normal((draws, self.size, left))
        for known, image in self._known:
            fresh = fresh - image @ (image.transpose(0, 2, 1) @ fresh)
            # Any basis of what is left serves: a Haar frame of it follows.
            domain = np.linalg.qr(np.concatenate([known, domain], axis=2)[0])[0][None, :, -left:]
        q, r = np.linalg.qr(fresh)
        signs = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)
        self._known.append((domain, q * signs[:, None, :]))
        self._count = self.size

    def _reveal(self, x: Array, side: int) -> Array:
        if self._count < self.size and x.shape[2] >= min(_MANY * self.size, _MOST):
            self._complete(len(x))
        if self._count == self.size:
            return np.asarray(sum(pair[1 - side] @ (pair[side].transpose(0, 2, 1) @ x)
                                  for pair in self._known))  # fmt: skip
        before = np.einsum("bnk,bnk->bk", x, x)
        rest, result = self._beyond(x, np.zeros_like(x), side)
        after = np.einsum("bnk,bnk->bk", rest, rest)
        if (after < _CLOSE * before).any():
            # What little is left holds the rounding of what was taken away.
            rest, result = self._beyond(rest, result, side)
            after = np.einsum("bnk,bnk->bk", rest, rest)
        rest = rest * (after > _ROUNDING**2 * before)[:, None, :]
        q, r = triangular(rest)
        used = np.diagonal(r, axis1=1, axis2=2) > 0
        fresh = self._rng.standard_normal(x.shape) * used[:, None, :]
        fresh, _ = self._beyond(fresh, None, 1 - side)
        p, _ = triangular(fresh, _SPANNED)
        self._known.append((q, p) if side == 0 else (p, q))
        return np.asarray(result + _times(p, r))

    def _beyond(self, x: Array, result: Array | None, side: int) -> tuple[Array, Array]:
        """What of x no known vector reaches, and the image of the rest added to ``result``."""
        image = x if result is None else result
        for pair in self._known:
            share = _products(pair[side], x)
            x = x - _times(pair[side], share)
            if result is not None:
                image = image + _times(pair[1 - side], share)
        return x, image


def _products(q: Array, x: Array) -> Array:
    """q^T x; for one vector and one vector without the cost of a matrix product for each draw."""
    if q.shape[2] == x.shape[2] == 1 and len(q) == len(x):
        return np.asarray(np.einsum("bnk,bnk->bk", q, x)[:, None, :])
    return np.asarray(q.transpose(0, 2, 1) @ x)


def _times(q: Array, share: Array) -> Array:
    return q * share if share.shape[1:] == (1, 1) else np.asarray(q @ share)
