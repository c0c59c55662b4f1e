"""Inputs mended by what the errors of a model say of them."""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig
from zoo_makers import ROWS, TOKENS, Inputs, find

_MISMATCH = re.compile(r"tokens?:? \(?(\d+)\D+features\D*? \(?(\d+)")
KINDS = ("image", "video", "audio")


@dataclass(frozen=True)
class _Wanted:
    """Features that want a placeholder each.

    Attributes:
        kind: of what they are: ``image``, ``video`` or ``audio``.
        token: the placeholder.
        count: how many of them.
    """

    kind: str
    token: int
    count: int


def with_tokens(
    error: BaseException | str, inputs: Inputs, model: nn.Module, config: PreTrainedConfig
) -> Inputs | None:
    """Inputs with as many placeholder tokens as an error asks for; None if it does not."""
    if "input_ids" not in inputs:
        return None
    wanted = _compared(error, config) or _told(str(error), inputs, model, config)
    if wanted is None:
        return None
    each = -(-wanted.count // ROWS)
    if not each or each * ROWS == int((inputs["input_ids"] == wanted.token).sum()):
        return None
    return placed(inputs, config, wanted.kind, wanted.token, each)


def _compared(error: BaseException | str, config: PreTrainedConfig) -> _Wanted | None:
    """What the function that compares tokens with features was called with."""
    trace = error.__traceback__ if isinstance(error, BaseException) else None
    while trace and trace.tb_frame.f_code.co_name != "get_placeholder_mask":
        trace = trace.tb_next
    if trace is None:
        return None
    own = trace.tb_frame.f_locals
    for name, value in own.items():
        if not name.endswith("features") or not isinstance(value, torch.Tensor):
            continue
        kind = name.removesuffix("features").strip("_")
        token = own.get("token_id")
        if token is None:
            token = placeholder(config, kind)
        else:
            kind = next((k for k in KINDS if placeholder(config, k) == token), "image")
        width = own.get("inputs_embeds", value).shape[-1]
        return None if token is None else _Wanted(kind, int(token), value.numel() // width)
    return None


def _told(
    message: str, inputs: Inputs, model: nn.Module, config: PreTrainedConfig
) -> _Wanted | None:
    """What the message of an error says."""
    found = _MISMATCH.search(message)
    if found is None:
        return None
    kind = next((k for k in ("video", "audio", "image") if k in message.lower()), "image")
    token = placeholder(config, kind)
    if token is None:
        return None
    count, wanted = int((inputs["input_ids"] == token).sum()), int(found[2])
    # Some count the entries of features, not the features.
    width = model.get_input_embeddings().weight.shape[-1]
    wanted = wanted if count != wanted and wanted <= 512 * ROWS else wanted // width
    return _Wanted(kind, token, wanted)


def placed(inputs: Inputs, config: PreTrainedConfig, kind: str, token: int, each: int) -> Inputs:
    """Inputs with so many placeholders before the last tokens of each row, and no others of it."""
    old = inputs["input_ids"]
    words = "audio" if kind == "audio" else "vision"
    start, end = (find(config, (f"{words}_{p}_token_id",), None) for p in ("start", "end"))
    run = [t for t in (start, *[token] * each, end) if t is not None]
    others = [[t for t in row[:-TOKENS] if t not in run] for row in old.tolist()]
    now = torch.cat([torch.tensor(others).long(), torch.tensor([run] * ROWS), old[:, -TOKENS:]], 1)
    made = {**inputs, "input_ids": now}
    if "attention_mask" in made:
        made["attention_mask"] = torch.ones_like(now)
    values = {placeholder(config, k): i for i, k in enumerate(KINDS, 1)}
    for name in {"mm_token_type_ids", "moe_mm_token_type_ids"} & made.keys():
        kinds = [[values.get(t, 0) for t in row] for row in now.tolist()]
        made[name] = torch.tensor(kinds)
    if made.get("image_attention_mask", torch.ones(())).ndim == 3:
        images = made["image_attention_mask"].shape[-1]
        made["image_attention_mask"] = torch.ones(*now.shape, images, dtype=torch.long)
    return made


_WIDTHS = re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")


def with_width(message: str, inputs: Inputs) -> Inputs | None:
    """Inputs with as many features as an error asks for; None if it does not."""
    found = _WIDTHS.search(message)
    if found is None:
        return None
    given, wanted = int(found[1]), int(found[2])
    random = torch.Generator().manual_seed(0)
    changed = {
        name: torch.randn(*value.shape[:-1], wanted, generator=random)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        and value.shape[-1] == given
    }  # fmt: skip
    return {**inputs, **changed} if changed else None


def placeholder(config: PreTrainedConfig, kind: str) -> int | None:
    """The token that stands for a feature of an image, video or sound."""
    names = (f"{kind}_token_id", f"{kind}_token_index", f"{kind}_token", f"{kind}_patch_id",
             f"{kind}_placeholder_token_id")  # fmt: skip
    told = find(config, ("vocabulary_map",), {}).get(f"<{kind}>")
    return find(config, names, None) if told is None else told
