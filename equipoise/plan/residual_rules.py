"""Rules by name for how loud residual branches start, and what each asks of a model."""

import math
from collections.abc import Sequence

from equipoise import _checks
from equipoise.errors import PlanError
from equipoise.plan.branch_walk import Ends
from equipoise.plan.nodes import Gain, Norm
from equipoise.plan.residual import SHARE, Branch

RESIDUALS = ("auto", "gpt2", "depth", "fixup", "rezero", "skipinit", "zero-last", "none")
# Rules under which a branch adds nothing at birth.
SILENT = frozenset({"fixup", "rezero", "skipinit", "zero-last"})

_SOURCES = {
    "gpt2": "Radford et al. 2019",
    "depth": "arXiv 2309.16620, 2310.02244",
    "fixup": "arXiv 1901.09321",
    "rezero": "arXiv 2003.04887",
    "skipinit": "arXiv 2002.10444",
    "zero-last": "arXiv 1706.02677",
}


def rule_named(residual: str) -> str:
    """The rule of a name.

    Args:
        residual: one of ``RESIDUALS``.

    Returns:
        The same name.

    Raises:
        ArgumentError: for any other.
    """
    return _checks.one_of("residual", residual, RESIDUALS)


def factor_of(rule: str, branch: Branch) -> float:
    """What a rule multiplies the last weights of a branch by.

    - ``gpt2``: 1/sqrt(N), N the number of last projections of the stream. The papers' 2L counts L
      blocks of two branches each, attention and MLP. Source: Radford et al. 2019.
    - ``depth``: 1/sqrt(L), L the number of sums of the stream, so that branches side by side count
      once. Source: arXiv 2309.16620, 2310.02244.

    Args:
        rule: of the two.
        branch: the branch.
    """
    count = branch.projections if rule == "gpt2" else branch.branches
    return 1.0 / math.sqrt(count)


def fixup_factor(branch: Branch) -> float:
    """What Fixup multiplies the inner weights of a branch by: L^(-1 / (2 m - 2)), m its layers.

    A branch of one layer has no inner ones. Source: Zhang et al. 2019, arXiv 1901.09321.
    """
    if branch.layers < 2:
        return 1.0
    return float(branch.branches ** (-1.0 / (2 * branch.layers - 2)))


def own_gains(branch: Branch) -> tuple[Gain, ...]:
    """Parameters that multiply a branch and are no norm's own gain, the last first."""
    norm = branch.ends.norm
    return tuple(g for g in branch.ends.gains if norm is None or g.input != norm.output)


def norm_gain(ends: Ends) -> Norm | Gain | None:
    """Where the gain behind the norm of a branch's end is: in it, or right behind it."""
    norm = ends.norm
    if norm is None or norm.weight:
        return norm
    return next((g for g in ends.gains if g.input == norm.output), None)


def refuse_unfit(rule: str, branches: Sequence[Branch], frozen: frozenset[str]) -> None:
    """Refuse a rule that was asked for where the model has nothing that it could act on.

    Args:
        rule: its name.
        branches: of the model.
        frozen: parameters that keep their values.

    Raises:
        PlanError: naming what is missing and the remedy.
    """
    if rule in ("auto", "none"):
        return
    if not branches:
        raise PlanError(
            f"residual={rule!r} must have residual branches to act on, got a model without any "
            "that could be read. Leave residual out or pass residual='none'."
        )
    for branch in branches:
        where = _place(branch)
        if rule in ("rezero", "skipinit"):
            gains = own_gains(branch)
            if not gains:
                raise PlanError(
                    f"the branch that ends in {where} must have a gain of its own for "
                    f"residual={rule!r}, got none. Add self.gain = nn.Parameter(torch.zeros(())) "
                    "and return x + self.gain * branch(x), or pass residual='zero-last'."
                )
            if all(g.parameter in frozen for g in gains):
                raise PlanError(
                    f"the gain {gains[0].parameter!r} must be trainable for residual={rule!r}, got "
                    "one that keeps its values. Set requires_grad or pass residual='none'."
                )
        elif branch.ends.norm is not None and norm_gain(branch.ends) is None:
            raise PlanError(
                f"the branch that ends in {where} must end in a weight or in a norm with a gain "
                f"for residual={rule!r}, got a norm without one, which undoes the scale of every "
                "weight before it. Give the norm a gain or pass residual='none'."
            )


def words_of(rule: str, scheme: str, branches: Sequence[Branch]) -> str:
    """One sentence on what a rule does with the branches of a model."""
    count = len(branches)
    streams = len({b.stream for b in branches})
    where = f"{count} residual branch{'es' * (count > 1)}"
    where += f" in {streams} streams" if streams > 1 else ""
    source = f" ({_SOURCES[rule]})" if rule in _SOURCES else ""
    match rule:
        case "none":
            return f"{where}: left as the scheme draws them, as asked for"
        case "auto" if scheme != "auto":
            return (
                f"{where}: left as {scheme} draws them, as published; residual='depth' or 'gpt2' "
                "makes them quieter"
            )
        case "auto" if all(b.is_normed for b in branches):
            return (
                f"{where}: each starts at {SHARE:g}/sqrt(L) of its stream of L branches, so that "
                "the norms behind the sums leave nearly all of what goes around them, forward and "
                "back"
            )
        case "auto":
            return (
                f"{where}: each starts at {SHARE:g}/sqrt(L) of its stream of L branches, so that "
                "second moments and gradients hardly grow through all of them"
            )
        case "gpt2":
            return f"{where}: last projections times 1/sqrt(their number in a stream){source}"
        case "depth":
            return f"{where}: last weights times 1/sqrt(L), L branches in a stream{source}"
        case "fixup":
            return (
                f"{where}: last weights and the head at 0, the others of a branch of m layers "
                f"times L^(-1/(2m-2)){source}"
            )
        case "zero-last":
            return f"{where}: last weights, or the gains of the norms behind them, at 0{source}"
        case _:
            return f"{where}: their gains at 0{source}"


def remarks_on(rule: str, branches: Sequence[Branch]) -> list[tuple[str, str]]:
    """What a reader should know of a rule on this model: places and remarks."""
    found: list[tuple[str, str]] = []
    for branch in branches:
        where = _place(branch)
        if not (branch.ends.affines or branch.ends.norm):
            if rule != "none":
                found.append((where, "what ends this residual branch was not read: no rule acts"))
            continue
        if rule == "fixup":
            if branch.ends.norm is not None:
                found.append((where, "Fixup is for branches without norms, which undo its scales"))
            elif not any(g.parameter for g in branch.ends.gains):
                found.append((where, _NO_MULTIPLIER))
    return found


_NO_MULTIPLIER = (
    "Fixup adds a scalar gain to each branch and scalar offsets before each layer and activation; "
    "the model has no such gain here, and its rule of weights is kept without it"
)


def _place(branch: Branch) -> str:
    last = branch.ends.affines
    return f"layer {last[0].layer!r}" if last else "an operation that was not read"
