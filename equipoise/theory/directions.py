"""The law of |f(u)| for a uniform direction u: the gain of one orthogonal layer of integer width.

With k of n entries positive, a binomial number, |f(u)|^2 = a+^2 B + a-^2 (1 - B) and B has the law
Beta(k / 2, (n - k) / 2). All entries of one sign leave an atom at |a+| and at |a-|. In the logit v
of B the density of the rest is analytic and decays at both ends: plain sums are exact.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, expit, gammaln, log_expit

from equipoise.theory.laplace import Array

# Numbers of positive entries that are rarer than this are left out.
_RARE = 1e-18
# Tails of exp(-30) are below the error that is promised.
_DECAY = 30.0


@dataclass(frozen=True)
class DirectionLaw:
    """Law of log|f(u)| for slopes 1 and ratio, u uniform on the sphere in n dimensions.

    Attributes:
        width: n, an integer of at least 1.
        ratio: of the slopes, 0 to 1.
        counts: numbers k of positive entries, 0 < k < n, that are not too rare.
        weights: their probabilities.
        atom: probability that all entries are positive, and as much that none is.
    """

    width: int
    ratio: float
    counts: Array
    weights: Array
    atom: float

    @staticmethod
    def of(width: int, ratio: float) -> "DirectionLaw":
        """The law at one width.

        >>> DirectionLaw.of(3, 0.5).weights.round(3).tolist()
        [0.375, 0.375]
        """
        k = np.arange(1.0, width)
        log_weight = gammaln(width + 1) - gammaln(k + 1) - gammaln(width - k + 1)
        weight = np.exp(log_weight - width * math.log(2.0))
        kept = weight > _RARE
        return DirectionLaw(width, ratio, k[kept], weight[kept], 2.0**-width)

    @property
    def alive(self) -> float:
        """Probability that f(u) is not 0.

        >>> DirectionLaw.of(3, 0.0).alive
        0.875
        """
        return 1.0 - self.atom if self.ratio == 0.0 else 1.0

    def cdf(self, gain: float) -> float:
        """P(|f(u)| <= gain), given that f(u) is not 0; exact to rounding.

        >>> round(DirectionLaw.of(2, 0.0).cdf(0.5), 12)  # a third, or arcsin
        0.222222222222
        """
        b = self.ratio**2
        share = min(max((gain * gain - b) / (1.0 - b), 0.0), 1.0) if gain >= self.ratio else -1.0
        if share < 0.0:
            return 0.0
        inside = betainc(self.counts / 2, (self.width - self.counts) / 2, share)
        total = float(self.weights @ inside) + self.atom * (gain >= 1.0)
        if self.ratio > 0.0:
            total += self.atom
        return total / self.alive

    def characteristic(self, w: Array) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """E |f(u)|^(i w) and the part of it that atoms make, given that f(u) is not 0.

        Args:
            w: frequencies, shape (m,), positive and increasing.

        Returns:
            Two arrays of shape (m,), absolute error below 1e-13.

        >>> law = DirectionLaw.of(2, 1.0)
        >>> [complex(z.round(12)[0]) for z in law.characteristic(np.array([3.0]))]
        [(1+0j), (0.5+0j)]
        """
        atoms = np.full(w.shape, self.atom, dtype=np.complex128)
        if self.ratio > 0.0:
            atoms += self.atom * np.exp(1j * w * math.log(self.ratio))
        atoms /= self.alive
        if not self.counts.size:
            return atoms, atoms
        v, mass = self._density(float(w[-1]))
        b = self.ratio**2
        x = 0.5 * (np.log(b + (1.0 - b) * expit(v)) if b > 0.0 else log_expit(v))
        return atoms + np.exp(1j * np.multiply.outer(w, x)) @ mass, atoms

    def _density(self, top: float) -> tuple[Array, Array]:
        """Mass on a grid of the logit that resolves frequencies up to top."""
        n, k = self.width, self.counts
        h = min(0.15, 1.5 / math.sqrt(n), 2.0 / top)
        # Around the logit of k / n the density falls like exp(-n v^2 / 16), far away like
        # exp(-k |v| / 2) to the left and exp(-(n - k) v / 2) to the right.
        first, last = float(k[0]), float(k[-1])
        near = 4 * math.sqrt(_DECAY / n) + abs(math.log(first / (n - first)))
        v = np.arange(-near - 2 * _DECAY / first, near + 2 * _DECAY / (n - last) + h, h)
        up, down = log_expit(v) / 2, log_expit(-v) / 2
        mass = np.zeros_like(v)
        for count, weight in zip(k, self.weights, strict=True):
            log_mass = count * up + (n - count) * down - betaln(count / 2, (n - count) / 2)
            mass += weight * np.exp(log_mass)
        return v, mass * (h / self.alive)
