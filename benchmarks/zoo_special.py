"""What rules by name do not know: a few lines for each architecture that needs them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, ResNetConfig
from zoo_inputs import ROWS, TOKENS
from zoo_layers import write
from zoo_roles import Sizes
from zoo_sizes import tree

_SERIES = {"prediction_length": 8, "context_length": 16, "num_time_features": 1}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "autoformer": _SERIES,
    "informer": _SERIES,
    "time_series_transformer": _SERIES,
    "swin2sr": {"embed_dim": 96, "depths": [2, 2], "num_heads": [2, 2]},
    "xmod": {"default_language": "en_XX"},
    "chameleon": {"vocabulary_map": {"<image>": 100, "IMGIMGAZ": 101, "IMGIMGBZ": 102}},
    "esm": {"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1},
}


def _hidden(model: nn.Module, config: PreTrainedConfig) -> dict[str, Any]:
    """Speech models without the nets before and behind them."""
    x = torch.randn(ROWS, TOKENS, config.hidden_size, generator=torch.Generator().manual_seed(0))
    return {"input_values": x, "decoder_input_values": x.clone(), "use_cache": False}


def _trajectory(model: nn.Module, config: PreTrainedConfig) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    return {
        "states": torch.randn(ROWS, TOKENS, config.state_dim, generator=random),
        "actions": torch.randn(ROWS, TOKENS, config.act_dim, generator=random),
        "returns_to_go": torch.randn(ROWS, TOKENS, 1, generator=random),
        "timesteps": torch.arange(TOKENS).expand(ROWS, TOKENS).contiguous(),
        "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long),
    }


def _channels_first(model: nn.Module, config: PreTrainedConfig) -> dict[str, Any]:
    """Stages of a codec, which read what lies before or behind them."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv1d))
    random = torch.Generator().manual_seed(0)
    # What is upsampled a thousandfold starts short.
    length = 3840 if first.in_channels == 1 else 2
    return {"hidden_states": torch.randn(ROWS, first.in_channels, length, generator=random)}


def _queries(model: nn.Module, config: PreTrainedConfig) -> dict[str, Any]:
    """Queries that read what an encoder of images made."""
    random = torch.Generator().manual_seed(0)
    return {
        "query_embeds": torch.randn(ROWS, 8, config.hidden_size, generator=random),
        "encoder_hidden_states": torch.randn(
            ROWS, TOKENS, config.encoder_hidden_size, generator=random
        ),
        "use_cache": False,
    }


def _masked_images(model: nn.Module, config: PreTrainedConfig) -> dict[str, Any]:
    """Images that take the places of the first tokens."""
    random = torch.Generator().manual_seed(0)
    mask = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    mask[:, 1 : 1 + config.latent_query_num] = 1
    side = config.vision_config.image_size
    return {
        "pixel_values": torch.randn(ROWS, 3, side, side, generator=random),
        "input_ids": torch.randint(5, 200, (ROWS, TOKENS), generator=random),
        "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long),
        "image_embeds_position_mask": mask,
        "use_cache": False,
    }


INPUTS: dict[str, Callable[[nn.Module, PreTrainedConfig], dict[str, Any]]] = {
    "speecht5": _hidden,
    "decision_transformer": _trajectory,
    "vibevoice_acoustic_tokenizer_encoder": _channels_first,
    "vibevoice_acoustic_tokenizer_decoder": _channels_first,
    "blip_2_qformer": _queries,
    "kosmos-2": _masked_images,
}


def adapt(name: str, config: PreTrainedConfig, sizes: Sizes) -> None:
    """Mend what the rules made of one architecture, in place."""
    if name == "funnel":
        # Of its two base models.
        write(config, "architectures", ["FunnelModel"])
    if name == "cvt":
        # A block's number indexes a list as long as its stage.
        write(config, "depth", [1, 2, 3])
    for part in list(tree(config)):
        own = vars(part)
        backbone = own.get("backbone_config")
        if getattr(backbone, "model_type", "") == "timm_backbone":
            write(part, "backbone_config", _resnet(list(backbone.out_indices)))
        if own.get("model_type", type(part).model_type) in ("efficientnet", "align_vision_model"):
            # Its stem counts from 32 channels whatever the lists say.
            write(part, "in_channels", [32, 16, 24, 40, 80, 112, 192])
            write(part, "out_channels", [16, 24, 40, 80, 112, 192, 320])
            write(part, "width_coefficient", 0.25)
            write(part, "hidden_dim", 320)
        if "projector_patch_to_query_dict" in own:
            write(part, "projector_patch_to_query_dict", {16: 8})
            write(part, "max_value_projector_patch_to_query_dict", 8)
        if "image_grid_pinpoints" in own and "vision_config" in own:
            # A picture of one tile, and the whole of it.
            write(part, "image_grid_pinpoints", [[own["vision_config"].image_size] * 2])
        if "attn_config" in own and hasattr(own["attn_config"], "clip_qkv"):
            own["attn_config"].__dict__.update(rope_theta=10000.0, clip_qkv=8.0)
        if own.get("layer_types", 0) is None:
            write(part, "layer_types", ["conv", "full_attention"])
        if own.get("mlp_layer_types", 0) is None and name.startswith("deepseek_ocr2"):
            write(part, "mlp_layer_types", ["dense", "sparse"])
        if own.get("sliding_window", 0) is None and name == "step3p7":
            write(part, "sliding_window", 8)
        if name.startswith("cohere_compass") and own.get("layer_types"):
            rotation = {"rope_type": "default", "rope_theta": 10000.0}
            write(part, "rope_parameters", {k: dict(rotation) for k in own["layer_types"]})


def _resnet(outputs: list[int]) -> ResNetConfig:
    """A convolutional backbone that needs no other package."""
    return ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 64, 128], depths=[1, 1, 1, 1], out_indices=outputs
    )
