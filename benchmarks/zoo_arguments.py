"""Arguments of forward that no rule by name makes: a function for each architecture."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from zoo_inputs import make
from zoo_makers import FRAMES, ROWS, SAMPLES, TOKENS, Inputs, Layout, ones
from zoo_repairs import placed, placeholder


def _hidden(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Speech models without the nets before and behind them."""
    x = torch.randn(ROWS, TOKENS, config.hidden_size, generator=torch.Generator().manual_seed(0))
    return {"input_values": x, "decoder_input_values": x.clone(), "use_cache": False}


def _trajectory(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    random = torch.Generator().manual_seed(0)
    return {
        "states": torch.randn(ROWS, TOKENS, config.state_dim, generator=random),
        "actions": torch.randn(ROWS, TOKENS, config.act_dim, generator=random),
        "returns_to_go": torch.randn(ROWS, TOKENS, 1, generator=random),
        "timesteps": torch.arange(TOKENS).expand(ROWS, TOKENS).contiguous(),
        "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long),
    }


def _channels_first(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Stages of a codec, which read what lies before or behind them."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv1d))
    random = torch.Generator().manual_seed(0)
    # What is upsampled a thousandfold starts short.
    length = 3840 if first.in_channels == 1 else 2
    return {"hidden_states": torch.randn(ROWS, first.in_channels, length, generator=random)}


def _queries(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Queries that read what an encoder of images made."""
    random = torch.Generator().manual_seed(0)
    return {
        "query_embeds": torch.randn(ROWS, 8, config.hidden_size, generator=random),
        "encoder_hidden_states": torch.randn(
            ROWS, TOKENS, config.encoder_hidden_size, generator=random
        ),
        "use_cache": False,
    }


def _masked_images(model: nn.Module, config: PreTrainedConfig) -> Inputs:
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


def _tiles(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Images in tiles, which all tokens attend to."""
    inputs, tiles = make(model, config, Layout()), config.vision_config.max_num_tiles
    side, random = config.vision_config.image_size, torch.Generator().manual_seed(0)
    inputs["pixel_values"] = torch.randn(ROWS, 1, tiles, 3, side, side, generator=random)
    inputs["aspect_ratio_ids"] = ones(ROWS, 1)
    inputs["aspect_ratio_mask"] = ones(ROWS, 1, tiles)
    inputs["cross_attention_mask"] = ones(ROWS, TOKENS, 1, tiles)
    return inputs


def _placed_patches(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Patches that begin with their row and column."""
    inputs, random = make(model, config, Layout()), torch.Generator().manual_seed(0)
    width = config.vision_config.patch_embed_hidden_size
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4)).expand(ROWS, 16, 2)
    patches = torch.randn(ROWS, 16, width, generator=random)
    mask = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    mask[:, 1 : 1 + config.latent_query_num] = 1
    inputs["flattened_patches"] = torch.cat([places.float(), patches], -1)
    inputs["image_embeds_position_mask"] = mask
    return inputs


def _pooled_patches(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Images whose patches are pooled by four."""
    layout = Layout(without=frozenset({"pixel_values_videos"}))
    inputs, random = make(model, config, layout), torch.Generator().manual_seed(0)
    vision = config.vision_config
    count, width = model.vision_tower.positional_embedding.shape[0], 3 * vision.patch_size**2
    inputs["pixel_values"] = torch.randn(ROWS, count, width, generator=random)
    first = count * torch.arange(ROWS)[:, None] + torch.arange(0, 16, 4)
    inputs["image_token_pooling"] = first.reshape(-1, 1) + torch.arange(4)
    inputs["image_grids"] = torch.tensor([[2, 2, 0, 0]] * ROWS)
    inputs["image_num_crops"] = ones(ROWS)
    return inputs


def _images_and_sounds(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """A picture as a whole and in one tile, and a sound, in places that nothing counts."""
    inputs, random = make(model, config, Layout()), torch.Generator().manual_seed(0)
    vision, audio = config.vision_config, config.audio_config
    side = vision.image_size
    grid = side // vision.patch_size
    inputs["image_pixel_values"] = torch.randn(ROWS, 2, 3, side, side, generator=random)
    inputs["image_sizes"] = torch.tensor([[vision.crop_size] * 2] * ROWS)
    inputs["image_attention_mask"] = torch.ones(ROWS, 2, grid, grid, dtype=torch.bool)
    inputs["audio_input_features"] = torch.randn(ROWS, FRAMES, audio.input_size, generator=random)
    frames = FRAMES // audio.time_reduction
    inputs["audio_embed_sizes"] = torch.tensor([frames] * ROWS)
    half = -(-grid // 2)
    inputs = placed(inputs, config, "audio", audio.audio_token_id, frames)
    return placed(inputs, config, "image", vision.image_token_id, 2 * half * (half + 1) + 1)


def _drafts(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """An image that is there and one that is to be made in each row."""
    inputs = make(model, config, Layout(patches="flat"))
    inputs["images_per_sample"] = 2 * ones(ROWS)
    inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]] * 2 * ROWS)
    return placed(inputs, config, "image", config.image_token_id, 16)


def _codec(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Sounds with labels: only what is to be said reaches the decoder over codebooks."""
    inputs, random = make(model, config, Layout(channels=1)), torch.Generator().manual_seed(0)
    length = 1920 * 4
    inputs["input_values"] = torch.randn(ROWS, 1, length, generator=random)
    inputs["input_values_cutoffs"] = torch.tensor([[length]] * ROWS)
    inputs = placed(inputs, config, "audio", config.audio_token_id, 4)
    sounds = inputs["input_ids"] == config.audio_token_id
    inputs["labels"] = torch.where(sounds, inputs["input_ids"], -100)
    return inputs


def _one_strip(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Images beside each other, with positions that are told."""
    layout = Layout(patches="strip", without=frozenset({"pixel_values_videos"}))
    inputs = placed(make(model, config, layout), config, "image", config.image_token_id, 1)
    ids = inputs["input_ids"]
    inputs["position_ids"] = torch.arange(ids.shape[1]).expand(3, *ids.shape).contiguous()
    return inputs


def _voices(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """A voice to speak in and what it said so far."""
    inputs, random = make(model, config, Layout()), torch.Generator().manual_seed(0)
    width = model.audio_prompt_proj.in_features
    inputs["audio_prompt_latents"] = torch.randn(ROWS, 4, width, generator=random)
    return placed(inputs, config, "prompt", config.audio_prompt_token_id, 4)


def _dialogue(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Sounds with a mask of what is there."""
    inputs = make(model, config, Layout(channels=1))
    return {**inputs, "padding_mask": torch.ones(ROWS, SAMPLES, dtype=torch.bool)}


def _streams(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Tokens of text and of all codebooks at each step."""
    inputs, random = make(model, config, Layout()), torch.Generator().manual_seed(0)
    streams = config.num_codebooks + 1
    inputs["input_ids"] = torch.randint(16, 200, (ROWS, TOKENS, streams), generator=random)
    return {k: v for k, v in inputs.items() if k != "input_values"}


def _delayed(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """As many tokens as there are frames of sound."""
    inputs = make(model, config, Layout(frames_first=False))
    for name in ("input_ids", "attention_mask"):
        inputs[name] = inputs[name][:, :8]
    return inputs


def _prompted(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Images with one that shows what to do."""
    random = torch.Generator().manual_seed(0)
    names = ("pixel_values", "prompt_pixel_values", "prompt_masks")
    side = config.image_size[1]
    return {name: torch.randn(ROWS, 3, side, side, generator=random) for name in names}


def _drafted(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Noise beside states of the model that is to be sped up."""
    random = torch.Generator().manual_seed(0)
    width = next(m for m in model.encoder.modules() if isinstance(m, nn.Linear)).in_features
    return {
        "noise_embeds": torch.randn(ROWS, 8, config.hidden_size, generator=random),
        "context_hidden_states": torch.randn(ROWS, TOKENS, width, generator=random),
        "attention_mask": dict.fromkeys(("full_attention", "sliding_attention")),
    }


def _encoded(model: nn.Module, config: PreTrainedConfig) -> Inputs:
    """Images that only the encoder names among its arguments."""
    layout = Layout(patches="rows", without=frozenset({"pixel_values_videos"}))
    inputs = make(model.encoder, config, layout)
    inputs.pop("use_cache", None)
    return {**inputs, "decoder_input_ids": make(model, config, layout)["decoder_input_ids"]}


INPUTS: dict[str, Callable[[nn.Module, PreTrainedConfig], dict[str, Any]]] = {
    "speecht5": _hidden,
    "decision_transformer": _trajectory,
    "vibevoice_acoustic_tokenizer_encoder": _channels_first,
    "vibevoice_acoustic_tokenizer_decoder": _channels_first,
    "blip_2_qformer": _queries,
    "kosmos-2": _masked_images,
    "mllama": _tiles,
    "kosmos-2.5": _placed_patches,
    "molmo2": _pooled_patches,
    "phi4_multimodal": _images_and_sounds,
    "glm_image": _drafts,
    "csm": _codec,
    "minicpmv4_7": _one_strip,
    "gradium_phonon_tts": _voices,
    "pocket_tts": _voices,
    "vibevoice": _dialogue,
    "diffusion_gemma": _encoded,
    "muse_glimmer_assistant": _drafted,
    "seggpt": _prompted,
    "kyutai_speech_to_text": _streams,
    "voxtral_realtime": _delayed,
}

# Placeholders for sounds where nothing compares their number with that of the features.
SOUNDS = {
    "qwen2_audio": 16, "qwen2_5_omni_thinker": 16, "qwen3_omni_moe_thinker": 13,
    "higgs_audio_v2": 8, "vibevoice_asr": 2, "vibevoice": 2,
}  # fmt: skip


def with_sounds(name: str, inputs: Inputs, config: PreTrainedConfig) -> Inputs:
    """Inputs with placeholders for sounds, if there are any."""
    sounds = inputs.keys() & {"input_features", "input_values", "audio_input_ids"}
    token = placeholder(config, "audio")
    if name not in SOUNDS or not sounds or token is None:
        return inputs
    return placed(inputs, config, "audio", token, SOUNDS[name])
