"""What the numbers in a configuration are, by their names, and how small each becomes."""

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """What a shrunken model is made of.

    Attributes:
        divisor: divides all widths and leaves the numbers of heads where it is above 0; where it is
            0, widths are ``heads * head_dim``.
        heads: attention heads.
        head_dim: width of a head.
        expansion: width of feed-forward layers over the width.
        stage_divisor: divides the numbers in lists of widths.
    """

    divisor: int = 0
    heads: int = 4
    head_dim: int = 16
    expansion: int = 2
    stage_divisor: int = 4

    @property
    def width(self) -> int:
        """Width of everything between layers."""
        return self.heads * self.head_dim


# Tried one after another until a model can be built and run.
ATTEMPTS = (
    Sizes(),
    Sizes(head_dim=24),
    Sizes(heads=2, head_dim=32),
    Sizes(divisor=8, stage_divisor=8),
    Sizes(divisor=4),
    Sizes(stage_divisor=1),
)

VOCABULARY = 256
IMAGE_PATCHES = 4
LARGEST_PATCH = 8
DEPTHS = ("depths", "depth", "blocks_per_stage", "stage_num_blocks", "num_block_repeats")

_ROLES = (
    # The first pattern that is found in a name says what its number is.
    ("top_experts", r"experts_per_tok|top_?k_experts|moe_top_?k|^moe_k$|num_selects"),
    ("image_tokens", r"^mm_tokens_per_image$"),
    ("keep", r"^max_xpath|_token|_id$|_idx$|_index$|kernel|stride|dilation|factor|padding|_step$"
             r"|^(num_labels|feature_layer|vision_feature_layer|patch_dim|num_feat_extract_layers)$"
             r"|^(conv_channels_in|feature_size|input_feat_per_channel|sampling_rate)$|_act$"
             r"|interval|scale|temperature|cost$|_coefficient$|seed|eps$|theta|version|^upscale"
             r"|spatial_merge|num_feature_levels|_mel_bins$|hop_length|ratio|expan"
             r"|num_codebooks|n_codebooks|num_quantizers|_mult$|multipl"),
    ("groups", r"groups$"),
    ("expert_groups", r"^(n_group|num_expert_group)$"),
    ("top_groups", r"^topk_group$"),
    ("sources", r"^max_source_positions$"),
    ("half_width", r"^num_pos_feats$"),
    ("grid", r"^(image_embedding_size|low_res_mask_size)$"),
    ("vocabulary", r"vocab|codebook_size|num_embeddings|codevectors|hash_buckets|^n_?tokens$"),
    ("layers", r"^(n_layers?|depth|layers|num_blocks)$|(^|_)(num_)?(hidden_)?layers$|_depth$"),
    ("experts", r"^(num_|n_|moe_num_|num_local_|n_routed_|num_routed_)experts$|^expert_num$"),
    ("key_value_heads", r"(key_value_heads|kv_heads|key_value_attention_heads)$"),
    ("head_dim", r"head_dim$|head_size$|^d_kv$|^dim_head$|^d_head$|attention_head_dim$"
                 r"|headdim$|kv_channels$|mamba_d_head$|qk_nope|qk_rope"),
    ("heads", r"heads?$|^num_attention_heads|n_heads$"),
    ("rank", r"(lora_rank|_rank)$"),
    ("expert_feed_forward", r"moe_intermediate|expert.*(intermediate|ffn)"),
    ("feed_forward", r"intermediate|ffn|feed_?forward|mlp_dim|mlp_hidden|^d_ff$|^n_inner$|^dff$"
                     r"|^dim_ff$|linear_units|^d_inner$"),
    ("positions", r"position_embeddings$|positions$|^n_ctx$|max_seq|context_length|max_length"
                  r"|max_pos|^max_.*_len(gth)?$|^position_embedding_size$|rel_extent"),
    ("images", r"^(pretrain_)?(image_size|img_size|input_size|crop_size|resolution)$"),
    ("patches", r"patch_size$|tubelet|merge_size$"),
    ("window", r"sliding_window|attention_window|local_attention|attention_chunk|^chunk_size$"
               r"|mamba_chunk_size|^window_size|local_radius|chunk_length"),
    ("frames", r"^(num_frames|frames_per_clip)$"),
    ("queries", r"quer(y|ies)(_tokens|_num)?$|num_latents$|n_latents$|_proposals$|^n_window"),
    ("width", r"(size|dim|dims|channels?|width|units|d_model|n_embd|filters|state|dimension)$"
              r"|hidden|embed|proj|features$|_embd$|channel_list$"),
)  # fmt: skip
_COMPILED = tuple((role, re.compile(pattern)) for role, pattern in _ROLES)


def role_of(name: str) -> str:
    """What the number of that name is, ``keep`` where no rule says."""
    return next((role for role, pattern in _COMPILED if pattern.search(name)), "keep")


def smallest_patch(given: dict[str, Any]) -> int:
    """Side of a patch, 0 where a model has none."""
    value = given.get("patch_size", 0)
    numbers = value if isinstance(value, list | tuple) else [value]
    return min(LARGEST_PATCH, max((n for n in numbers if isinstance(n, int)), default=0))


def image_side(patch: int, staged: bool) -> int:
    """Side of an image: a few patches, or enough for five halvings."""
    return 64 if staged or patch < 8 else IMAGE_PATCHES * patch


def number(
    role: str, value: int, sizes: Sizes, given: dict[str, Any], staged: bool, patch: int
) -> int:
    """The shrunken number of a role."""
    if value <= 1:
        return value
    scaled, heads = sizes.divisor > 0, count_of_heads(given)
    match role:
        case "vocabulary":
            return min(value, VOCABULARY)
        case "layers":
            return value if value <= 2 else 2
        case "experts":
            return min(value, 4)
        case "top_experts":
            return min(value, 2)
        case "heads":
            return value if scaled else min(value, sizes.heads)
        case "key_value_heads":
            if scaled:
                return value
            return sizes.heads if value >= heads else max(1, sizes.heads // 2)
        case "head_dim":
            return max(4, value // sizes.divisor) if scaled else sizes.head_dim
        case "rank":
            return max(4, value // (sizes.divisor or 16))
        case "feed_forward" | "expert_feed_forward":
            # Experts are narrower, and many.
            factor = sizes.expansion if role == "feed_forward" else 1
            return max(8, value // sizes.divisor) if scaled else factor * sizes.width
        case "positions":
            return min(value, 128)
        case "images":
            return image_side(patch, staged) if value > 64 else value
        case "sources":
            return min(value, 32)
        case "grid":
            return IMAGE_PATCHES * (4 if value > 64 else 1)
        case "image_tokens":
            return 4
        case "half_width":
            return max(4, value // sizes.divisor) if scaled else sizes.width // 2
        case "groups":
            return min(value, 4)
        case "expert_groups":
            return 2
        case "top_groups":
            return 1
        case "patches":
            return min(value, LARGEST_PATCH)
        case "window":
            # Windows of pixels hold a few patches.
            if staged:
                return 2
            return value if value <= 8 or value > patch > 0 else 8
        case "frames":
            return min(value, 4)
        case "queries":
            return min(value, 8)
        case "width":
            if staged:
                return stage_number(value, sizes)
            if scaled:
                return max(8, value // sizes.divisor) if value > 16 else value
            return sizes.width if value >= 64 else value
        case _:
            return value


def count_of_heads(given: dict[str, Any]) -> int:
    """Attention heads before any shrinking."""
    for name in (
        "num_attention_heads",
        "n_head",
        "num_heads",
        "n_heads",
        "decoder_attention_heads",
    ):
        if isinstance(given.get(name), int):
            return int(given[name])
    return 0


def stage_number(value: int, sizes: Sizes) -> int:
    """A width that belongs to a stage; ratios and equalities between stages stay."""
    return value if value <= 16 else max(8, value // sizes.stage_divisor)


def listed(
    name: str, role: str, value: list[Any] | tuple[Any, ...], sizes: Sizes, patch: int
) -> Any:
    """A list of numbers, or of lists of them, in the type that it had."""

    def one(item: Any) -> Any:
        if isinstance(item, list | tuple):
            return type(item)(one(i) for i in item)
        if isinstance(item, bool) or not isinstance(item, int):
            return item
        match role:
            case "width":
                return stage_number(item, sizes)
            case "images":
                return image_side(patch, False) if item > 64 else item
            case "layers":
                return min(item, 1)
            case "patches":
                return min(item, LARGEST_PATCH)
            case "window":
                return min(item, 8)
            case "vocabulary" | "positions":
                return min(item, VOCABULARY)
            case _:
                return item

    if name in DEPTHS:
        return type(value)(min(item, 1) for item in value)
    return type(value)(one(item) for item in value)
