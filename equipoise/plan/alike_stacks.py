"""Stacks that differ in names only: what is expected of one is expected of the other.

Deep models repeat blocks. Their names, value numbers and spaces differ, the numbers do not.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Pool
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Array, Frame, Law

# Numbers that differ by less are the same: what a norm adds to a variance that grows from block to
# block makes no difference.
_DIGITS = 5


def signature(
    stack: Stack,
    laws: Sequence[Law],
    frames: Sequence[Frame],
    inputs: Inputs,
    arrays: Mapping[str, Array],
) -> Hashable | None:
    """All that expectations of a stack depend on; None where that is more than a few numbers.

    Args:
        stack: the layers.
        laws: of weights and biases, in one order.
        frames: that the laws name.
        inputs: what enters.
        arrays: that laws and frames name.
    """
    if arrays or inputs.rows.size or inputs.maps.size:
        return None
    names = {f.id: f"frame {i}" for i, f in enumerate(frames)}
    for i, affine in enumerate(stack.affines):
        names |= {affine.weight: f"weight {i}", str(affine.out_space): f"space {i}"}
    layers = [
        (a.in_size, a.out_size, a.convolution, a.in_sites, a.out_sites, a.axis, a.is_turned)
        for a in stack.affines
    ]
    return (
        tuple(layers),
        tuple(_units(h) for h in stack.hidden),
        tuple(_renamed(law, names) for law in laws),
        tuple(_renamed(frame, names) for frame in frames),
        f"{inputs.mean_square:.{_DIGITS}g}",
        f"{inputs.share:.{_DIGITS}g}",
        f"{inputs.mean:.{_DIGITS}g}",
    )


def _units(hidden: Hidden) -> Hidden:
    return replace(
        hidden,
        space=0,
        pools=tuple(_pool(p) for p in hidden.pools),
        early_pools=tuple(_pool(p) for p in hidden.early_pools),
    )


def _pool(pool: Pool) -> Pool:
    return replace(pool, layer="", input=0, output=0, space=0)


def _renamed(value: Any, names: Mapping[str, str]) -> Hashable:
    """A law or frame as nested tuples, with names by place."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, float):
        return f"{value:.{_DIGITS}g}"
    if isinstance(value, tuple):
        return tuple(_renamed(v, names) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = (_renamed(getattr(value, f.name), names) for f in fields(value))
        return (type(value).__name__, *parts)
    assert isinstance(value, Hashable)
    return value
