"""What rules by name do not know: a few lines for each architecture that needs them."""

from typing import Any

from transformers import PreTrainedConfig, ResNetConfig
from zoo_layers import write
from zoo_roles import Sizes
from zoo_sizes import split, tree

# Codes of an image that are tokens, too.
IMAGE_CODES = 64


def _letters() -> dict[str, int]:
    """Names of codes whose digits are letters from A to J."""
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    return {f"IMGIMG{str(i).translate(letters)}Z": 100 + i for i in range(IMAGE_CODES)}


def _numbers() -> dict[str, int]:
    return {f"<|visual token {i:06d}|>": 100 + i for i in range(IMAGE_CODES)}


_SERIES = {"prediction_length": 8, "context_length": 16, "num_time_features": 1}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "autoformer": _SERIES,
    "informer": _SERIES,
    "time_series_transformer": _SERIES,
    "swin2sr": {"embed_dim": 96, "depths": [2, 2], "num_heads": [2, 2]},
    "xmod": {"default_language": "en_XX"},
    "chameleon": {"vocabulary_map": {"<image>": 99, **_letters()}},
    "emu3": {"vocabulary_map": {"<image>": 99, "<|extra_200|>": 98, **_numbers()}},
    "esm": {"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1},
}


def adapt(name: str, config: PreTrainedConfig, sizes: Sizes) -> None:
    """Mend what the rules made of one architecture, in place."""
    if name == "funnel":
        # Of its two base models.
        write(config, "architectures", ["FunnelModel"])
    if name == "cvt":
        # A block's number indexes a list as long as its stage.
        write(config, "depth", [1, 2, 3])
    if name.endswith("_thinker"):
        # Its positions are counted from where images begin.
        ends = {"vision_start_token_id": 240, "vision_end_token_id": 241, "audio_end_token_id": 242}
        config.__dict__.update({k: vars(config).get(k) or v for k, v in ends.items()})
    if name == "moonshine_streaming":
        write(config, "num_key_value_heads", config.num_attention_heads)
    for part in list(tree(config)):
        for mend in (_backbones, _images, _widths, _sounds, _codecs, _layers, _unread):
            mend(name, part, vars(part), sizes)


def _backbones(name: str, part: PreTrainedConfig, own: dict[str, Any], sizes: Sizes) -> None:
    """Networks before others."""
    backbone = own.get("backbone_config")
    if getattr(backbone, "model_type", "") == "timm_backbone":
        write(part, "backbone_config", _resnet(list(backbone.out_indices)))
    if own.get("model_type", type(part).model_type) in ("efficientnet", "align_vision_model"):
        # Its stem counts from 32 channels whatever the lists say.
        own["in_channels"] = [32, 16, 24, 40, 80, 112, 192]
        own["out_channels"] = [16, 24, 40, 80, 112, 192, 320]
        own.update(width_coefficient=0.25, hidden_dim=320)


def _images(name: str, part: PreTrainedConfig, own: dict[str, Any], sizes: Sizes) -> None:
    """Sizes of images, and numbers of their parts."""
    if "projector_patch_to_query_dict" in own:
        own["projector_patch_to_query_dict"] = {16: 8}
        own["max_value_projector_patch_to_query_dict"] = 8
    if "image_grid_pinpoints" in own and "vision_config" in own:
        # A picture of one tile, and the whole of it.
        own["image_grid_pinpoints"] = [[own["vision_config"].image_size] * 2]
    if "max_num_patches" in own and "patch_embed_hidden_size" in own:
        own["max_num_patches"] = 32
    if "visual_prompt_size" in own:
        own["visual_prompt_size"] = 8
    if name == "seggpt":
        # Two images on top of each other.
        own["image_size"] = [64, 32]


def _widths(name: str, part: PreTrainedConfig, own: dict[str, Any], sizes: Sizes) -> None:
    """Widths that follow from others."""
    if {"coordinate_size", "shape_size", "has_spatial_attention_bias"} <= own.keys():
        # Four coordinates and two sides share the width.
        own["shape_size"] = own["hidden_size"] // 8
        own["coordinate_size"] = own["hidden_size"] * 3 // 16
    if "merged_hidden_size" in own:
        own["merged_hidden_size"] = 4 * sizes.width
    if "out_hidden_size" in own and "projector_hidden_act" in own:
        own["out_hidden_size"] = own["vision_config"].merge_size ** 2 * sizes.width
    if "pixel_shuffle_ratio" in own and "projector_input_dim" in own:
        own["intermediate_size"] = round(own["hidden_size"] / own["pixel_shuffle_ratio"] ** 2)
    if "downsample_channels" in own:
        own["downsample_channels"] = [*own["downsample_channels"][:-1], sizes.width]
    if "patch_sizes" in own and "hidden_sizes" in own and "out_hidden_size" in own:
        own["num_hidden_layers"] = len(own["hidden_sizes"])
        own["out_hidden_size"] = sizes.width
    if name.startswith("diffusion_gemma") and "num_experts" in own:
        own.update(num_experts=4, top_k_experts=2, moe_intermediate_size=sizes.width)
    if name == "perceiver":
        own.update(d_latents=64, num_latents=8)


def _sounds(name: str, part: PreTrainedConfig, own: dict[str, Any], sizes: Sizes) -> None:
    """Frames and bins of sounds."""
    if "n_window_infer" in own:
        # Lengths behind the convolutions are counted for windows of a hundred frames.
        own.update(n_window=50, n_window_infer=100)
    if "downsample_rate" in own and "window_size" in own:
        own["window_size"] = 2 * own["downsample_rate"]
    if "nemo_conv_channels" in own:
        own["input_size"] = 80
    if name == "fastspeech2_conformer_with_hifigan" and "model_in_dim" in own:
        own["model_in_dim"] = 80


def _codecs(name: str, part: PreTrainedConfig, own: dict[str, Any], sizes: Sizes) -> None:
    """Autoencoders, which would outweigh the model that reads their codes."""
    if "channel_multiplier" in own and "base_channels" in own:
        multipliers = [min(m, 2) for m in own["channel_multiplier"]]
        own.update(base_channels=32, num_res_blocks=1, channel_multiplier=multipliers)
        if "temporal_downsample_factor" in own:
            own["hidden_size"] = 32 * multipliers[-1]
    if "vocabulary_map" in own:
        codec = own["vq_config"]
        size = "codebook_size" if "codebook_size" in vars(codec) else "num_embeddings"
        write(codec, size, IMAGE_CODES)
    if part.model_type.startswith("vibevoice") and "num_filters" in own:
        # Doubled at each of many stages.
        own["num_filters"] = 4


def _layers(name: str, part: PreTrainedConfig, own: dict[str, Any], sizes: Sizes) -> None:
    """Kinds of layers, and what belongs to one of them."""
    if own.get("layer_types", 0) is None:
        own["layer_types"] = ["conv", "full_attention"]
    if own.get("mlp_layer_types", 0) is None and name.startswith("deepseek_ocr2"):
        own["mlp_layer_types"] = ["dense", "sparse"]
    if own.get("sliding_window", 0) is None and name == "step3p7":
        own["sliding_window"] = 8
    if name.startswith("cohere_compass") and own.get("layer_types"):
        rotation = {"rope_type": "default", "rope_theta": 10000.0}
        own["rope_parameters"] = {k: dict(rotation) for k in own["layer_types"]}
    if part.model_type == "paddleocr_vl_text":
        # Its model presumes them.
        sections = split(sizes.head_dim // 2, (16, 24, 24))
        own["rope_parameters"] = {**own["rope_parameters"], "mrope_section": sections}
    if "attn_config" in own and hasattr(own["attn_config"], "clip_qkv"):
        own["attn_config"].__dict__.update(rope_theta=10000.0, clip_qkv=8.0)
    if own.get("indexer_budget", 0) is None and own.get("layer_types"):
        own.update(indexer_n_heads=4, indexer_kv_heads=1, indexer_head_dim=sizes.head_dim)
        own.update(indexer_budget=8, indexer_compress_ratio=2)
    if "kv_source_layers" in own:
        # Layers share keys with those that turn them in the same way.
        turns, sources = own["no_rope_layers"], own["kv_source_layers"]
        shared = [j if turns[j] == turns[i] else i for i, j in enumerate(sources)]
        own["kv_source_layers"] = shared
    if part.model_type.startswith("t5gemma2") and "dropout_rate" not in own:
        own["dropout_rate"] = 0.0
    if "spatial_target_layers" in own:
        own.update(deepstack_layer_map=[(-1, 0)], spatial_target_layers=[0, 1, 0, 1])
        own["downsample_rate"] = "1/2"


def _unread(name: str, part: PreTrainedConfig, own: dict[str, Any], sizes: Sizes) -> None:
    """What would stay unread: a share that is large in a small model only."""
    if "vision_use_head" in own and "siglip" not in name:
        # Pools what only the models of images and texts by themselves read.
        own["vision_use_head"] = False
    for key in ("vision_feature_layer", "vision_feature_layers", "feature_layer"):
        # The last layer: one of two, not one of many.
        if own.get(key) == -2:
            own[key] = -1
        if isinstance(own.get(key), list | tuple):
            own[key] = [-1, -2]
    if "insert_layer_id" in own:
        own["insert_layer_id"] = 0
    if "downsample_mode" in own:
        # The other mode skips a merger.
        own["downsample_mode"] = "16x"
    if "zero_expert_num" in own:
        own["zero_expert_num"] = 2
    if "group_detr" in own:
        # Further groups of queries are there in training only.
        own["group_detr"] = 1


def _resnet(outputs: list[int]) -> ResNetConfig:
    """A convolutional backbone that needs no other package."""
    return ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 64, 128], depths=[1, 1, 1, 1], out_indices=outputs
    )
