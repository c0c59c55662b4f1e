"""Shrinks the configuration of any architecture of transformers until its model is tiny.

Rules go by the names of attributes. Widths, heads, vocabularies and images get the sizes of
``Sizes`` in the whole tree of configurations, so what had to be equal is equal; numbers in lists
(channels by stage) are divided by one number. Of the layers as many stay as there are kinds of
them (at least two), so mixtures of attention, state space and experts stay mixtures.
"""

import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig
from zoo_layers import is_layer, shrink_layers, write
from zoo_roles import (
    DEPTHS,
    IMAGE_PATCHES,
    VOCABULARY,
    Sizes,
    listed,
    number,
    role_of,
    smallest_patch,
)

# Numbers of heads of a state space layer, their width, and the width of all of them.
_STATES = (
    ("mamba_n_heads", "mamba_d_head", "mamba_d_ssm"),
    ("n_mamba_heads", "mamba_headdim", "mamba_d_ssm"),
)

# What stands for nothing at all in default configurations of models that need it.
_PRESUMED = {
    "num_experts_per_tok": 2, "n_routed_experts": 4, "num_local_experts": 4, "n_shared_experts": 1,
}  # fmt: skip

_STAGED = ("depths", "layers", "num_heads", "blocks_per_stage", "hidden_sizes")


def tree(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and all inside it, from the outside in."""
    yield config
    for value in list(vars(config).values()):
        inner = value if isinstance(value, list | tuple) else [value]
        for one in inner:
            if isinstance(one, PreTrainedConfig):
                yield from tree(one)


def shrink(config: PreTrainedConfig, sizes: Sizes) -> None:
    """Shrink a configuration and all inside it, in place."""
    for part in _once(config):
        layers = shrink_layers(part)
        shrink_numbers(part, sizes, layers)
        relate(part, sizes)
        shrink_rotations(part, sizes)
    shrink_tokens(config)


def _once(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    return list({id(part): part for part in tree(config)}.values())


def shrink_numbers(config: PreTrainedConfig, sizes: Sizes, done: str | None = None) -> None:
    """Every number but one that is done by the role that its name says."""
    given = {name: value for name, value in vars(config).items() if not name.startswith("__")}
    staged = any(isinstance(given.get(n), list | tuple) for n in _STAGED)
    patches = smallest_patch(given)
    for name, value in given.items():
        role = role_of(name)
        if isinstance(value, bool) or value is None or name == done:
            continue
        if isinstance(value, int):
            write(config, name, number(role, value, sizes, given, staged, patches))
        elif isinstance(value, list | tuple) and value and (role != "keep" or name in DEPTHS):
            write(config, name, listed(name, role, value, sizes, patches))
        elif isinstance(value, dict) and value and all(is_layer(key) for key in value):
            write(config, name, {k: _inner(v, sizes, given) for k, v in value.items()})


def _inner(value: Any, sizes: Sizes, given: dict[str, Any]) -> Any:
    """What one layer has of its own."""
    if not isinstance(value, dict):
        return value
    return {
        name: number(role_of(name), one, sizes, {**given, **value}, False, 0)
        if isinstance(one, int) and not isinstance(one, bool)
        else one
        for name, one in value.items()
    }


def relate(config: PreTrainedConfig, sizes: Sizes) -> None:
    """Numbers that follow from others, and those that may be left out."""
    own = vars(config)
    if "qk_nope_head_dim" in own and "qk_rope_head_dim" in own:
        write(config, "qk_head_dim", own["qk_nope_head_dim"] + own["qk_rope_head_dim"])
    if own.get("head_dim", 0) is None and not sizes.divisor:
        write(config, "head_dim", sizes.head_dim)
    for name, value in _PRESUMED.items():
        if own.get(name, 0) is None:
            write(config, name, value)
    if own.get("num_key_value_heads", 0) is None:
        write(config, "num_key_value_heads", own.get("num_attention_heads"))
    for heads, head, inner in _STATES:
        if heads in own and head in own:
            expand = own.get("mamba_expand", own.get("expand", 2))
            width = int(expand * own.get("hidden_size", sizes.width))
            write(config, heads, max(1, width // own[head]))
            if inner in own:
                write(config, inner, own[heads] * own[head])
    if "patch_dim" in own:
        write(config, "patch_dim", 3 * own["patch_size"] ** 2)
    if "backbone_feature_sizes" in own:
        grids = [[4 * IMAGE_PATCHES >> i] * 2 for i in range(len(own["backbone_feature_sizes"]))]
        write(config, "backbone_feature_sizes", grids)
    if own.get("num_kv_shared_layers"):
        write(config, "num_kv_shared_layers", 0)


def shrink_rotations(config: PreTrainedConfig, sizes: Sizes) -> None:
    """Sections and factors of rotary positions share out half of a head."""
    half = vars(config).get("head_dim") or sizes.head_dim
    half = half // 2 if isinstance(half, int) else sizes.head_dim // 2
    # Some models presume sections that their configuration does not name.
    has_sections = "mrope_section" in (
        getattr(type(config), "ignore_keys_at_rope_validation", None) or ()
    )
    for name in ("rope_parameters", "rope_scaling"):
        value = vars(config).get(name)
        if isinstance(value, dict):
            if has_sections and "mrope_section" not in value:
                value = {**value, "mrope_section": [16, 24, 24]}
            write(config, name, _rotation(value, half))


def _rotation(value: dict[str, Any], half: int) -> dict[str, Any]:
    share = half * float(value.get("partial_rotary_factor") or 1)
    made: dict[str, Any] = {}
    for key, inner in value.items():
        match inner:
            case dict():
                made[key] = _rotation(inner, half)
            case list() | tuple() if "section" in key:
                made[key] = split(int(share), inner)
            case list() | tuple() if key in ("short_factor", "long_factor"):
                made[key] = list(inner[: int(share)])
            case _:
                made[key] = inner
    return made


def split(whole: int, parts: list[int] | tuple[int, ...]) -> list[int]:
    """A number in parts of about the ratios given, each at least 1; equal parts stay equal."""
    made = [max(1, whole * part // sum(parts)) if part else 0 for part in parts]
    alone = [i for i, part in enumerate(parts) if list(parts).count(part) == 1]
    made[alone[0] if alone else -1] += whole - sum(made)
    return made


def shrink_tokens(config: PreTrainedConfig) -> None:
    """Identities of special tokens: small ones, the same where they were the same."""
    known: dict[int, int] = {}
    for part in _once(config):
        for name, value in list(vars(part).items()):
            if not re.search(
                r"token_id$|token_index$|_token$|_patch_id$|_pad_id$|_bos_id$|_eos_id$", name
            ):
                continue
            if value is None and re.match(r"(image|audio|video)_token_(id|index)$", name):
                write(part, name, VOCABULARY - 60 - len(name))
            if isinstance(value, int) and not isinstance(value, bool) and value >= 16:
                known.setdefault(value, VOCABULARY - 1 - len(known))
                write(part, name, known[value])
