"""Inputs for any architecture of transformers, from the signature of its forward.

``candidates`` yields dicts of arguments, the fullest first: which layout a model wants is found by
running it.
"""

import inspect
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedConfig
from zoo_makers import MAKERS, Inputs, Layout, Made, find, whole

_IMAGES = {
    "pixel_values", "image_grid_thw", "image_sizes", "spatial_shapes", "pixel_attention_mask",
    "pixel_position_ids", "image_position_ids", "mm_token_type_ids", "high_res_pixel_values",
    "pixel_values_local", "num_local_patches", "image_attention_mask", "target_sizes",
    "images_per_sample", "moe_mm_token_type_ids", "image_merge_sizes",
}  # fmt: skip
_VIDEOS = {"pixel_values_videos", "video_grid_thw"}
_SOUNDS = {
    "input_features", "input_values", "input_features_mask", "feature_attention_mask",
    "audio_input_ids", "audio_input_ids_mask",
}  # fmt: skip
_KINDS = {"mm_token_type_ids", "moe_mm_token_type_ids"}
# Without these there is no image or sound at all; others say more of it.
_MAIN = {
    "pixel_values", "image_grid_thw", "mm_token_type_ids", "input_features", "input_values",
    "audio_input_ids", "high_res_pixel_values",
}  # fmt: skip
_ALWAYS = _IMAGES | _VIDEOS | _SOUNDS | {
    "input_ids", "attention_mask", "decoder_input_ids", "bbox", "qformer_input_ids",
    "future_values", "future_time_features", "visual_feats", "visual_pos", "input_boxes",
    "global_attention_mask", "entity_ids", "entity_position_ids", "visual_embeds",
}  # fmt: skip


def parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    """Arguments of forward by name."""
    return dict(inspect.signature(model.forward).parameters)


def required(model: nn.Module) -> set[str]:
    """Names of the arguments without default, and of the main input."""
    needed = {
        name
        for name, p in parameters(model).items()
        if p.default is inspect.Parameter.empty and p.kind is not p.VAR_KEYWORD
    }
    main = getattr(model, "main_input_name", "input_ids")
    return needed | ({main} if isinstance(main, str) and main in parameters(model) else set())


def candidates(model: nn.Module, config: PreTrainedConfig) -> Iterator[tuple[Layout, Inputs]]:
    """Arguments of forward, from the fullest to the fewest, in each layout that may fit."""
    names, needed = set(parameters(model)), required(model)
    optional = names - needed
    # Videos mostly go through what images go through.
    apart = any("video" in name for name, _ in model.named_children())
    base = _VIDEOS & optional if names & _IMAGES and not apart else set()
    groups: list[set[str]] = [base]
    if "input_ids" in names:
        pictures, sounds = optional & _IMAGES, optional & _SOUNDS
        more = [sounds - _MAIN, _KINDS & optional, pictures - _MAIN, (pictures | sounds) - _MAIN]
        groups += [base | left_out for left_out in (*more, sounds, pictures)]
        groups += [(_IMAGES | _VIDEOS | _SOUNDS) & optional]
    groups += [optional - {"input_ids"}] if "input_ids" in names else [optional]
    has_convolutions = any(isinstance(m, nn.Conv2d | nn.Conv3d) for m in model.modules())
    seen: list[Layout] = []
    for left_out in groups:
        for layout in layouts(names - left_out, config, has_convolutions):
            layout = replace(layout, without=frozenset(left_out))
            if layout not in seen:
                seen.append(layout)
                yield layout, make(model, config, layout)


def layouts(
    names: set[str], config: PreTrainedConfig, has_convolutions: bool = True
) -> list[Layout]:
    """Layouts worth a try for arguments of these names."""
    orders = [True, False] if names & {"input_features", "audio_mel"} else [True]
    channels = [0, 1, whole(find(config, ("audio_channels",), 2))]
    channels = list(dict.fromkeys(channels)) if "input_values" in names else [0]
    found = [Layout(order, channels=count) for order in orders for count in channels]
    kinds = ["image"]
    if names & {"pixel_values", "hidden_states", "pixel_values_videos"}:
        kinds = ["image", "list", "tiles", "video", "channels", "pair", "last5"]
        if names & {"image_grid_thw", "grid_thw", "video_grid_thw"}:
            kinds = ["flat", "flat4", "flat5", "rows", "last", *kinds]
        elif "target_sizes" in names:
            kinds = ["strip", *kinds]
        elif names & {"spatial_shapes", "pixel_position_ids", "image_position_ids"}:
            kinds = ["rows", "flat", *kinds]
        elif not has_convolutions:
            kinds = ["rows", "flat", *kinds]
        elif find(config, ("num_frames", "frames_per_clip"), 0):
            kinds = ["video", "channels", "image"]
    return [replace(layout, patches=kind) for layout in found for kind in kinds]


def make(model: nn.Module, config: PreTrainedConfig, layout: Layout) -> Inputs:
    """The arguments of forward in one layout; what has no maker is left out."""
    made = Made(config, layout, torch.Generator().manual_seed(0))
    names, needed = parameters(model), required(model)
    inputs = {
        name: MAKERS[name](made)
        for name in names
        if name in MAKERS and (name in needed or name in _ALWAYS) and name not in layout.without
    }
    sound = not names.keys() & {"input_ids"} or "decoder_input_ids" in names
    if sound and inputs.keys() & (_SOUNDS | {"past_values"}):
        inputs.pop("attention_mask", None)
    if "input_ids" not in inputs and "decoder_input_ids" not in inputs:
        inputs.pop("attention_mask", None)
    if "use_cache" in names:
        inputs["use_cache"] = False
    return inputs
