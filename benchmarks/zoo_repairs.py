"""Inputs mended by what the errors of a model say of them."""

import re

import torch
from torch import nn
from transformers import PreTrainedConfig
from zoo_inputs import ROWS, TOKENS, Inputs, find

_MISMATCH = re.compile(r"tokens?:? \(?(\d+)\D+features\D*? \(?(\d+)")


def with_tokens(
    message: str, inputs: Inputs, model: nn.Module, config: PreTrainedConfig
) -> Inputs | None:
    """Inputs with as many placeholder tokens as an error asks for; None if it does not."""
    found = _MISMATCH.search(message)
    if found is None or "input_ids" not in inputs:
        return None
    kind = next((k for k in ("video", "audio", "image") if k in message.lower()), "image")
    token = placeholder(config, kind)
    if token is None:
        return None
    old = inputs["input_ids"]
    count, wanted = int((old == token).sum()), int(found[2])
    # Some count the entries of features, not the features.
    width = model.get_input_embeddings().weight.shape[-1]
    wanted = wanted if count != wanted and wanted <= 512 * ROWS else wanted // width
    each = -(-wanted // ROWS)
    if not each or each * ROWS == count:
        return None
    words = "audio" if kind == "audio" else "vision"
    start, end = (find(config, (f"{words}_{p}_token_id",), None) for p in ("start", "end"))
    run = [t for t in (start, *[token] * each, end) if t is not None]
    others = [[t for t in row[:-TOKENS] if t not in run] for row in old.tolist()]
    now = torch.cat([torch.tensor(others).long(), torch.tensor([run] * ROWS), old[:, -TOKENS:]], 1)
    made = {**inputs, "input_ids": now}
    if "attention_mask" in made:
        made["attention_mask"] = torch.ones_like(now)
    if "mm_token_type_ids" in made:
        values = {placeholder(config, k): i for i, k in enumerate(("image", "video", "audio"), 1)}
        kinds = [[values.get(t, 0) for t in row] for row in now.tolist()]
        made["mm_token_type_ids"] = torch.tensor(kinds)
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
    return find(config, names, None)
