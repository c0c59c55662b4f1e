"""Residual branches while a plan is made: each is set when all that it is made of is planned."""

import math
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import replace

from scipy import optimize

from equipoise.errors import PlanError
from equipoise.plan.branch_book import Book, gain_name, heads_of, layer_of, set_exit
from equipoise.plan.levels import Levels
from equipoise.plan.nodes import Affine, Gain, Merge, Norm, makes, reads
from equipoise.plan.plan_stack import at_exit, expected_at_exit
from equipoise.plan.predict_joined import Part
from equipoise.plan.residual import SHARE, Branch, find_branches
from equipoise.plan.residual_rules import (
    SILENT,
    factor_of,
    fixup_factor,
    norm_gain,
    own_gains,
    refuse_unfit,
    remarks_on,
    words_of,
)
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.plan.trace import Trace
from equipoise.plan.vectors import VectorLaws
from equipoise.schemes.laws import BestOf, Constant, Law, Taps
from equipoise.schemes.louder import louder

_NORMED = (
    "a norm without a gain that may be set ends this residual branch, which starts as loud as a "
    "normalized value"
)
_OUT_OF_REACH = "behind its activation no scale of the last weight brings the branch to its share"
_KEPT = "the gain of this residual branch keeps its values, which are quieter than its share"
_KEEPS = "the gain of the norm that ends this residual branch is frozen: no rule acts"
# A level within this share of what is wanted is met.
_CLOSE = 1e-6
# Nats by which a scale is looked for where a branch is not proportional to it.
_FARTHEST = 14.0


class BranchLaws:
    """What a rule makes of the branches of a model.

    Args:
        trace: the model.
        stacks: its stacks.
        rule: one of ``residual_rules.RESIDUALS``.
        scheme: name of the scheme, without options.
        fixed: parameters that keep their values.

    Raises:
        PlanError: if the model has nothing that the rule could act on.
    """

    def __init__(
        self,
        trace: Trace,
        stacks: Sequence[Stack],
        rule: str,
        scheme: str,
        fixed: frozenset[str],
    ) -> None:
        branches = find_branches(trace) if rule != "none" or scheme == "auto" else ()
        refuse_unfit(rule, branches, fixed)
        acts = rule != "none" and not (rule == "auto" and scheme != "auto")
        self.rule, self.branches = rule, branches if acts else ()
        self.choice = words_of(rule, scheme, branches) if branches else ""
        self.remarks = remarks_on(rule, self.branches)
        # Layers whose weights start at 0, by the value that they make.
        self.silent: set[int] = set()
        self._silent_gains: set[str] = set()
        # Whatever the rule does to branches, what feeds them is the same.
        self._streams = frozenset(b.stream for b in branches)
        self._by_sum = {b.sum.output: b for b in self.branches}
        self._fixed = fixed
        self._ending = {s.affines[-1].output: s for s in stacks}
        self._nodes = trace.nodes
        self._place = {v: i for i, n in enumerate(trace.nodes) for v in makes(n)}
        self._inner = self._inner_factors() if rule == "fixup" else {}
        self._heads = heads_of(trace) if rule == "fixup" else frozenset[int]()

    def _inner_factors(self) -> dict[str, float]:
        """What Fixup multiplies weights by; of nested branches the inner one's rule holds."""
        factors: dict[str, float] = {}
        last = {a.weight for b in self.branches for a in b.ends.affines if b.ends.norm is None}
        for branch in self.branches:
            for affine in branch.inner:
                if affine.weight not in last:
                    factors.setdefault(affine.weight, fixup_factor(branch))
        return factors

    def begin_at(self, value: int) -> bool:
        """Whether a stream of residual branches begins at a value."""
        return value in self._streams

    def silent_names(self) -> tuple[str, ...]:
        """Weights and gains that start at 0."""
        weights = {
            n.weight for n in self._nodes if isinstance(n, Affine) and n.output in self.silent
        }
        return tuple(sorted(weights | self._silent_gains))

    def at_stack(self, stack: Stack, planned: StackPlan) -> StackPlan:
        """The plan of a stack with what the rule asks of weights inside branches.

        Raises:
            PlanError: naming a layer whose law cannot be scaled.
        """
        factors = [self._inner.get(a.weight, 1.0) for a in stack.affines]
        if all(f == 1.0 for f in factors):
            return planned
        weights = [
            self._times(affine, law, factor)
            for affine, law, factor in zip(stack.affines, planned.weights, factors, strict=True)
        ]
        least = min(factors)
        reason = f"{planned.reason}; times {least:.4g} as Fixup asks inside branches"
        return replace(planned, weights=tuple(weights), reason=reason, expected=None)

    def _times(self, affine: Affine, law: Law, factor: float) -> Law:
        if factor == 1.0:
            return law
        if isinstance(law.matrix if isinstance(law, Taps) else law, BestOf):
            raise PlanError(
                f"layer {affine.layer!r} must have a law that can be scaled for "
                f"residual={self.rule!r}, got one that is chosen among draws. Use 'lyapunov' in "
                "place of 'sampled', or pass residual='none'."
            )
        return louder(law, factor)

    def at_head(self, stack: Stack, levels: Levels) -> None:
        """Let a head start at 0 where the rule asks for that, once its stack is planned."""
        last = stack.affines[-1]
        if last.output in self._heads and last.weight not in self._fixed:
            self.silent.add(last.output)
            set_exit(levels, stack, 0.0)

    def at_sum(
        self,
        node: Merge,
        levels: Levels,
        vectors: VectorLaws,
        parts: MutableMapping[int, Part],
    ) -> None:
        """Set a branch by the rule, now that all of it and what goes around it are planned."""
        branch = self._by_sum.get(node.output)
        if branch is None:
            return
        book = Book(levels, vectors, parts)
        if self.rule in SILENT:
            self._silence(branch, book)
        elif self.rule == "auto":
            self._share(branch, book)
        else:
            factor = factor_of(self.rule, branch)
            count = branch.projections if self.rule == "gpt2" else branch.branches
            self._set(branch, book, factor, f"times 1/sqrt({count}) by residual={self.rule!r}")

    def _silence(self, branch: Branch, book: Book) -> None:
        """A branch that adds nothing at birth."""
        reason = f"ends one of {branch.branches} residual branches, silent at birth"
        if self.rule in ("rezero", "skipinit"):
            last = next(g for g in own_gains(branch) if g.parameter not in self._fixed)
            self._set_gain(branch, last, 0.0, reason, book)
        elif branch.ends.norm is not None:
            gain = norm_gain(branch.ends)
            assert gain is not None
            self._set_gain(branch, gain, 0.0, reason, book)
        else:
            for own in own_gains(branch):
                # A branch of which weight and gain are 0 would never move.
                if own.parameter not in self._fixed:
                    words = "multiplies a branch whose last weight starts at 0"
                    self._set_gain(branch, own, 1.0, words, book)
            for stack in self._stacks(branch, book):
                self.silent.add(stack.affines[-1].output)
                self._say(stack, f"its last weight {reason}", book)
            self._try(branch, 0.0, book)

    def _share(self, branch: Branch, book: Book) -> None:
        """The auto rule: a share of the stream for the branch."""
        share = branch.share
        level = book.levels.of(branch.skip)
        wanted = share * math.sqrt(level) if level > 0 else share
        beside = f", with {branch.parts - 1} beside it" if branch.parts > 1 else ""
        words = (
            f"one of {branch.branches} residual branches{beside}, at {SHARE:g}/sqrt("
            f"{branch.branches}) of the stream"
        )
        gains = [g for g in own_gains(branch) if g.parameter not in self._fixed]
        gain = gains[0] if gains else norm_gain(branch.ends)
        if gain is not None and gain_name(gain) not in self._fixed:
            self._share_of_gain(branch, gain, wanted, f"ends {words}", book)
        elif branch.ends.norm is not None:
            self.remarks.append((layer_of(branch), _NORMED))
        elif self._stacks(branch, book):
            found = self._solved(lambda t: self._try(branch, t, book), branch, wanted, book)
            if found is None and math.isnan(book.levels.of(branch.value)):
                found = self._alone(branch, wanted, book)
            if found is None:
                self._try(branch, 1.0, book)
                self.remarks.append((layer_of(branch), _OUT_OF_REACH))
            else:
                self._set(branch, book, found, f"it ends {words}")

    def _share_of_gain(
        self, branch: Branch, gain: Gain | Norm, wanted: float, words: str, book: Book
    ) -> None:
        """A gain at the end of a branch: one of the model's own is kept where it is quiet."""
        is_own = isinstance(gain, Gain) and gain in own_gains(branch)
        found = self._solved(lambda t: self._hear(branch, gain, t, book), branch, wanted, book)
        value = wanted if found is None else found
        before = math.sqrt(gain.mean_square) if is_own and isinstance(gain, Gain) else math.nan
        if before <= value * (1.0 + _CLOSE):
            self._hear(branch, gain, before, book)
            self.remarks.append((layer_of(branch), _KEPT))
            return
        self._set_gain(branch, gain, value, words, book)

    def _set_gain(
        self, branch: Branch, gain: Gain | Norm, value: float, words: str, book: Book
    ) -> None:
        book.vectors.laws[gain_name(gain)] = (Constant(value - gain.offset), words)
        self._hear(branch, gain, value, book)

    def _hear(self, branch: Branch, gain: Gain | Norm, value: float, book: Book) -> None:
        """Let levels know of a gain."""
        book.levels.set_factor(gain_name(gain), value * value)
        (self._silent_gains.discard if value else self._silent_gains.add)(gain_name(gain))
        self._forget(branch, (gain.output,), book)

    def _set(self, branch: Branch, book: Book, factor: float, words: str) -> None:
        """Multiply what ends a branch by a factor: its last weights, or the gain behind them."""
        gain = norm_gain(branch.ends)
        if branch.ends.norm is not None:
            assert gain is not None
            if gain_name(gain) in self._fixed:
                self.remarks.append((layer_of(branch), _KEEPS))
            else:
                self._set_gain(branch, gain, factor, f"{factor:.4g}, {words}", book)
            return
        for stack in self._stacks(branch, book):
            last, key = stack.affines[-1], stack.affines[0].output
            part = book.parts[key]
            self._times(last, part.planned.weights[-1], factor)
            alone = expected_at_exit(part.alone, factor)
            leaves = part.leaves * factor
            planned = at_exit(part.planned, factor)
            book.parts[key] = replace(part, planned=planned, alone=alone, leaves=leaves)
            self._say(stack, words, book)
        self._try(branch, 1.0, book)

    def _say(self, stack: Stack, words: str, book: Book) -> None:
        key = stack.affines[0].output
        planned = book.parts[key].planned
        planned = replace(planned, reason=f"{planned.reason}; {words}")
        book.parts[key] = replace(book.parts[key], planned=planned)

    def _solved(
        self, attempt: Callable[[float], None], branch: Branch, wanted: float, book: Book
    ) -> float | None:
        """The factor at which a branch has the RMS wanted; None where none is known to."""

        def excess(log_factor: float) -> float:
            attempt(math.exp(log_factor))
            level = book.levels.of(branch.value)
            return math.log(level) / 2 - math.log(wanted) if level > 0 else math.nan

        # A branch is proportional to its last weight but for functions of entries behind it.
        guess = -excess(0.0)
        if math.isnan(guess) or abs(excess(guess)) < _CLOSE:
            return None if math.isnan(guess) else math.exp(guess)
        if not excess(-_FARTHEST) < 0.0 < excess(_FARTHEST):
            return None
        return math.exp(optimize.brentq(excess, -_FARTHEST, _FARTHEST, xtol=1e-9))

    def _alone(self, branch: Branch, wanted: float, book: Book) -> float | None:
        """The factor of a branch whose level is not known, as if nothing stood behind its ends."""
        made = [book.parts[s.affines[0].output].leaves for s in self._stacks(branch, book)]
        known = [m * m for m in made if m > 0]
        if not known:
            return None
        return wanted / math.sqrt(sum(known) / len(known) * branch.parts)

    def _stacks(self, branch: Branch, book: Book) -> list[Stack]:
        """Planned stacks that end a branch."""
        found = (self._ending.get(a.output) for a in branch.ends.affines)
        return [
            s for s in found
            if s is not None and s.affines[0].output in book.parts
            and s.affines[-1].weight not in self._fixed
        ]  # fmt: skip

    def _try(self, branch: Branch, factor: float, book: Book) -> None:
        """Let levels know what the last weights make of a branch if they are so much larger."""
        changed: list[int] = []
        for stack in self._stacks(branch, book):
            part = book.parts[stack.affines[0].output]
            changed += set_exit(book.levels, stack, factor * part.leaves, part.is_sure)
        self._forget(branch, changed, book)

    def _forget(self, branch: Branch, changed: Iterable[int], book: Book) -> None:
        """Find anew what is made of changed values, up to the sum."""
        touched = set(changed)
        first = min((self._place[v] for v in touched), default=0)
        later: list[int] = []
        for node in self._nodes[first : self._place[branch.sum.output] + 1]:
            if touched.intersection(reads(node)) and not isinstance(node, Affine):
                touched.update(makes(node))
                later += makes(node)
        gains = [v for v in touched if isinstance(self._nodes[self._place[v]], Gain | Norm)]
        book.levels.forget([*later, *gains])
