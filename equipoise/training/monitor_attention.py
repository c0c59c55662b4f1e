"""The logits of attention: their maximum and the entropy of what softmax makes of them.

A part of the queries of one input stands for all; keys are all there. Logits are computed anew
from queries and keys, since fused kernels never show them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

# Queries that are looked at, of the first input that is given.
QUERIES = 16
# Masks add -inf, or the least number of their dtype; no logit gets there.
_MASKED = -3e4


@dataclass(frozen=True, eq=False)
class Scores:
    """Queries and keys of one input, or logits themselves.

    Attributes:
        queries: shape (heads, some queries, features), float32; logits where keys are None.
        keys: shape (heads, keys, features), or None.
        scale: of the products.
        mask: what is added to logits, shape (heads or 1, some queries, keys), or None.
    """

    queries: torch.Tensor
    keys: torch.Tensor | None = None
    scale: float = 1.0
    mask: torch.Tensor | None = None

    def numbers(self) -> torch.Tensor:
        """Largest logit, and mean entropy over the log of the number of keys, shape (2,)."""
        logits = self.queries
        if self.keys is not None:
            logits = self.queries @ self.keys.transpose(-1, -2) * self.scale
        if self.mask is not None:
            logits = logits + self.mask
        seen = (logits > _MASKED) & logits.isfinite()
        high = torch.where(seen, logits, -math.inf).amax()
        # A row that is masked altogether, or has one key, chooses nothing.
        counts = seen.sum(dim=-1)
        logs = torch.log_softmax(torch.where(seen, logits, -math.inf), dim=-1)
        terms = torch.where(seen, logs.exp() * logs, 0.0)
        shares = -terms.sum(dim=-1) / counts.clamp(min=2).log()
        chooses = counts > 1
        share = torch.where(chooses, shares, 0.0).sum() / chooses.sum()
        return torch.stack([high, share])


def _some(length: int) -> slice:
    """Every so many queries, the last among them: under a causal mask it sees all keys."""
    step = max(1, -(-length // QUERIES))
    return slice((length - 1) % step, None, step)


def scores_of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Scores | None:
    """Of a call of ``scaled_dot_product_attention``; None for shapes that are not understood.

    Args:
        args: query (..., heads, queries, features), key, value, attn_mask, dropout_p, is_causal.
        kwargs: the same by name, and scale.
    """
    given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args,
                     strict=False)) | dict(kwargs)  # fmt: skip
    query, key = given["query"].detach(), given["key"].detach()
    if query.dim() < 3 or query.is_nested or not query.numel() or not key.numel():
        return None
    part = _some(query.shape[-2])
    mask = _first_mask(given.get("attn_mask"), query, key, part)
    if given.get("is_causal"):
        rows = torch.arange(query.shape[-2], device=query.device)[part, None]
        columns = torch.arange(key.shape[-2], device=query.device)
        mask = torch.where(columns > rows, -math.inf, 0.0)
    first = (0,) * max(0, query.dim() - 3)
    some, keys = query[first][:, part].float(), key[first].float()
    if len(keys) != len(some):
        # Groups of heads share their keys.
        keys = keys.repeat_interleave(len(some) // len(keys), dim=0)
    scale = given.get("scale")
    return Scores(some, keys, query.shape[-1] ** -0.5 if scale is None else float(scale), mask)


def _first_mask(
    mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, part: slice
) -> torch.Tensor | None:
    if mask is None:
        return None
    full = (*query.shape[:-1], key.shape[-2])
    wide = mask.detach().expand(full)[(0,) * max(0, query.dim() - 3)][:, part]
    return torch.where(wide, 0.0, -math.inf) if mask.dtype == torch.bool else wide.float()


def scores_of_heads(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Scores | None:
    """Of a call of ``multi_head_attention_forward``: one input is projected once more.

    Args:
        args: query and key of shape (length, batch, features), then number of features, heads,
            packed weights and biases.
        kwargs: the same by name, masks and separate weights.
    """
    names = ("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight",
             "in_proj_bias")  # fmt: skip
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    query, key = given["query"].detach(), given["key"].detach()
    if query.dim() != 3:
        query, key = query[:, None], key[:, None]
    heads, features = given["num_heads"], query.shape[-1]
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    if weight is None:
        into_queries, into_keys = given["q_proj_weight"], given["k_proj_weight"]
    else:
        into_queries, into_keys = weight[:features], weight[features : 2 * features]
    part = _some(len(query))
    some = query[part, 0].float() @ into_queries.detach().float().T
    keys = key[:, 0].float() @ into_keys.detach().float().T
    if bias is not None:
        some = some + bias[:features].detach()
        keys = keys + bias[features : 2 * features].detach()
    some = some.unflatten(-1, (heads, -1)).transpose(0, 1)
    keys = keys.unflatten(-1, (heads, -1)).transpose(0, 1)
    mask = _mask_of_heads(given, heads, part)
    return Scores(some, keys, some.shape[-1] ** -0.5, mask)


def _mask_of_heads(given: Mapping[str, Any], heads: int, part: slice) -> torch.Tensor | None:
    """The mask of all inputs or of the first one, and its padded keys."""
    found = None
    for name in ("attn_mask", "key_padding_mask"):
        mask = given.get(name)
        if mask is None:
            continue
        mask = mask.detach()
        mask = torch.where(mask, -math.inf, 0.0) if mask.dtype == torch.bool else mask.float()
        if name == "attn_mask":
            mask = mask[part] if mask.dim() == 2 else mask[:heads, part]
        else:
            mask = mask[0] if mask.dim() == 2 else mask
        found = mask if found is None else found + mask
    return found


def scores_of_logits(logits: torch.Tensor) -> Scores | None:
    """Of what a softmax over the last axis is given, shape (..., queries, keys).

    >>> [round(x, 3) for x in scores_of_logits(torch.zeros(2, 4, 8, 8)).numbers().tolist()]
    [0.0, 1.0]
    """
    values = logits.detach()
    if values.dim() < 3 or not values.numel():
        return None
    first = (0,) * max(0, values.dim() - 3)
    return Scores(values[first][:, _some(values.shape[-2])].to(torch.float32, copy=True))
