"""Laws in words, and as plain JSON types."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from equipoise.errors import PlanError
from equipoise.schemes import laws, part_laws
from equipoise.schemes.laws import Law


def describe(law: Law) -> str:
    """A law in a few words, for tables."""
    match law:
        case laws.Zero():
            return "0"
        case laws.Constant(value=value):
            return f"{value:.4g}"
        case laws.Normal(std=std, mean=mean):
            return f"normal, std {std:.4g}" + _mean(mean)
        case laws.Uniform(bound=bound, mean=mean):
            return f"uniform, bound {bound:.4g}" + _mean(mean)
        case laws.TruncatedNormal(scale=scale, low=low, high=high, mean=mean):
            return f"normal, std {scale:.4g}{_mean(mean)}, cut at {low:.4g} and {high:.4g}"
        case laws.Sparse(share=share, std=std):
            return f"normal, std {std:.4g}, {share:.4g} of each column 0"
        case laws.Identity(gain=gain):
            return f"identity, gain {gain:.4g}"
        case laws.Directions(norm=norm, scale=scale):
            units = " in units of each input's spread" if scale else ""
            return f"directions spread evenly, norm {norm:.4g}{units}"
        case laws.Orthogonal(gain=gain):
            return f"orthogonal, gain {gain:.4g}"
        case laws.DiagonalNoise(diagonal=d, noise_std=std, noise=noise):
            kind = "noise" if noise == "normal" else f"{noise} noise"
            return f"diagonal {d:.4g} + {kind}, std {std:.4g}"
        case laws.Framed(scale=scale, rank=rank):
            mirrored = isinstance(law.out_layout, laws.Mirrored) or isinstance(
                law.in_layout, laws.Mirrored
            )
            return f"{'mirrored' if mirrored else 'framed'}, gain {scale:.4g}, rank {rank}"
        case laws.OffsetBias(constant=constant, centre=centre, level=level, std=std):
            words = f"{level:.4g}" if level else ""
            parts = [f"{constant:.4g}"] * bool(constant) + ["input mean"] * bool(centre)
            if parts:
                words += f"{' - ' if words else '-'}W ({' + '.join(parts)})"
            if std:
                words += f"{' + ' if words else ''}normal, std {std:.4g}"
            return words or "0"
        case laws.SpreadBias(std=std, in_std=in_std, centre=centre):
            parts = [f"kinks of pairs spread by {std:.4g}"] * bool(std)
            parts += [f"{in_std:.4g} of the pairs before taken away"] * bool(in_std)
            return ", ".join(parts + ["input mean taken away"] * bool(centre)) or "0"
        case laws.Paired(matrix=inner):
            return f"pairs (v, -v): {describe(inner)}"
        case laws.BestOf(matrix=inner, draws=draws):
            return f"best of {draws}: {describe(inner)}"
        case laws.Table(std=std, padding=padding):
            return f"normal, std {std:.4g}, row {padding} 0"
        case laws.Turned(matrix=inner):
            return f"{describe(inner)}, transposed"
        case part_laws.Chrono(steps=steps, sign=sign):
            return f"{'' if sign > 0 else '-'}log of uniform on [1, {steps - 1:g}]"
        case part_laws.Blocks(parts=parts):
            each = [describe(part) for part in parts]
            return f"{len(parts)} x {each[0]}" if len(set(each)) == 1 else " | ".join(each)
        case part_laws.Rows(matrix=inner, factor=factor):
            return f"{describe(inner)}, some rows times {factor:g}"
        case part_laws.Each(matrix=inner):
            return f"each: {describe(inner)}"
        case laws.Taps(matrix=inner, block=block):
            size = "centre tap" if max(block) == 1 else f"{'x'.join(map(str, block))} taps"
            return f"{size}: {describe(inner)}"


def _mean(mean: float) -> str:
    return f" around {mean:.4g}" if mean else ""


_LAWS: dict[str, Callable[..., Law]] = {
    c.__name__: c
    for c in (
        laws.Zero, laws.Constant, laws.Normal, laws.Uniform, laws.TruncatedNormal, laws.Sparse,
        laws.Identity, laws.Directions, laws.Orthogonal, laws.DiagonalNoise, laws.Framed,
        laws.Paired, laws.BestOf, laws.OffsetBias, laws.SpreadBias, laws.Taps,
        laws.Table, laws.Turned, part_laws.Chrono, part_laws.Blocks, part_laws.Each, part_laws.Rows,
    )
}  # fmt: skip
_LAYOUTS: dict[str, laws.Layout] = {"Plain": laws.Plain(), "Mirrored": laws.Mirrored()}


def law_to_dict(law: Law) -> dict[str, Any]:
    """A law as plain JSON types."""
    return {"law": type(law).__name__} | {
        f.name: _to_plain(getattr(law, f.name)) for f in fields(law)
    }


def _to_plain(value: Any) -> Any:
    if isinstance(value, laws.Layout):
        return type(value).__name__
    if isinstance(value, Law):
        return law_to_dict(value)
    return [_to_plain(v) for v in value] if isinstance(value, tuple) else value


def law_from_dict(data: Mapping[str, Any]) -> Law:
    """The law that ``law_to_dict`` described.

    Raises:
        PlanError: for a law of unknown name.
    """
    name = data["law"]
    if name not in _LAWS:
        raise PlanError(f"law must be one of {', '.join(sorted(_LAWS))}, got {name!r}. Save again.")
    return _LAWS[name](**{k: _from_plain(k, v) for k, v in data.items() if k != "law"})


def _from_plain(name: str, value: Any) -> Any:
    match value:
        case str() if name.endswith("layout"):
            return _LAYOUTS[value]
        case dict():
            return law_from_dict(value)
        case list():
            return tuple(_from_plain(name, v) for v in value)
        case _:
            return value
