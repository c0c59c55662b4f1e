"""Inputs for any architecture of transformers, from the signature of its forward.

``candidates`` yields dicts of arguments, the fullest first: which layout a model wants is found by
running it.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from zoo_sizes import tree

ROWS, TOKENS, FRAMES, SAMPLES = 4, 16, 64, 7680
Inputs = dict[str, Any]

_ALWAYS = (
    "input_ids", "attention_mask", "pixel_values", "pixel_values_videos", "decoder_input_ids",
    "image_grid_thw", "video_grid_thw", "mm_token_type_ids", "image_sizes", "spatial_shapes",
    "pixel_attention_mask", "input_features", "input_values", "bbox", "qformer_input_ids",
    "future_values", "future_time_features", "visual_feats", "visual_pos",
    "input_features_mask", "pixel_position_ids", "image_position_ids",
)  # fmt: skip
_IMAGES = {
    "pixel_values", "image_grid_thw", "image_sizes", "spatial_shapes", "pixel_attention_mask",
    "pixel_position_ids", "image_position_ids", "mm_token_type_ids",
}  # fmt: skip
_VIDEOS = {"pixel_values_videos", "video_grid_thw"}
_SOUNDS = {"input_features", "input_values", "input_features_mask"}


@dataclass(frozen=True)
class Layout:
    """What a signature does not say.

    Attributes:
        frames_first: whether spectra are (rows, frames, bins), not (rows, bins, frames).
        patches: how pixels come: ``image``, ``list`` (one more axis of images), ``pair`` (two of
            them), ``flat`` (rows of patches of all images; ``flat4`` and ``flat5`` with axes of
            their own for channels and pixels), ``rows`` (patches by image), ``video`` or
            ``channels`` (video with channels first).
        without: arguments that are left out.
        channels: channels of sound, 0 for no such axis.
    """

    frames_first: bool = True
    patches: str = "image"
    without: frozenset[str] = frozenset()
    channels: int = 0


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
    groups: list[set[str]] = [set()]
    videos = _VIDEOS & optional
    if videos and names & _IMAGES:
        groups = [videos]
    if optional & _IMAGES and "input_ids" in names:
        kept = {"pixel_values", "image_grid_thw", "mm_token_type_ids"}
        groups += [groups[0] | (optional & (_IMAGES - kept))]
        groups += [groups[0] | (optional & _SOUNDS), (_IMAGES | _VIDEOS) & optional]
    groups += [(_IMAGES | _VIDEOS | _SOUNDS) & optional] if names & {"input_ids"} else []
    groups += [optional - {"input_ids"}] if "input_ids" in names else [optional]
    seen = []
    for left_out in groups:
        for layout in layouts(names - left_out, config):
            layout = replace(layout, without=frozenset(left_out))
            if layout not in seen:
                seen.append(layout)
                yield layout, make(model, config, layout)


def layouts(names: set[str], config: PreTrainedConfig) -> list[Layout]:
    """Layouts worth a try for arguments of these names."""
    orders = [True, False] if names & {"input_features", "audio_mel"} else [True]
    channels = [0, 1, whole(find(config, ("audio_channels",), 2))]
    channels = list(dict.fromkeys(channels)) if "input_values" in names else [0]
    found = [Layout(order, channels=count) for order in orders for count in channels]
    kinds = ["image"]
    if names & {"pixel_values", "hidden_states", "pixel_values_videos"}:
        kinds = ["image", "list", "video", "channels", "pair"]
        if names & {"image_grid_thw", "grid_thw", "video_grid_thw"}:
            kinds = ["flat", "flat4", "flat5", "rows", *kinds]
        elif names & {"spatial_shapes", "pixel_position_ids", "image_position_ids"}:
            kinds = ["rows", "flat", *kinds]
        elif find(config, ("num_frames", "frames_per_clip"), 0):
            kinds = ["video", "channels", "image"]
    return [replace(layout, patches=kind) for layout in found for kind in kinds]


def find(config: PreTrainedConfig, names: tuple[str, ...], default: Any) -> Any:
    """The first attribute of one of these names, from the outside in."""
    for part in tree(config):
        for name in names:
            value = vars(part).get(name)
            if value is not None and not isinstance(value, bool):
                return value
    return default


def whole(value: Any) -> int:
    """A size that may be a list or dict of them."""
    if isinstance(value, dict):
        value = list(value.values())
    return int(value[-1] if isinstance(value, list | tuple) else value)


@dataclass(frozen=True)
class _Made:
    """Makes arguments by name, always the same for one model and layout."""

    config: PreTrainedConfig
    layout: Layout
    random: torch.Generator

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random)

    def of(self, names: tuple[str, ...], default: Any) -> int:
        return whole(find(self.config, names, default))

    @property
    def patch(self) -> int:
        return self.of(("patch_size", "vision_patch_size"), 16)

    @property
    def channels(self) -> int:
        return self.of(("num_channels", "in_channels", "in_chans", "input_channels"), 3)

    def tokens(self) -> torch.Tensor:
        """Identities of tokens that are not special."""
        most = max(8, min(self.of(("vocab_size",), 128), 200))
        return torch.randint(5, most, (ROWS, TOKENS), generator=self.random)

    def grid(self, side: int = 4) -> torch.Tensor:
        return torch.tensor([[1, side, side]] * ROWS)

    def pixels(self) -> torch.Tensor:
        given = find(self.config, ("image_size", "img_size"), 64)
        given = list(given.values()) if isinstance(given, dict) else given
        sides = given if isinstance(given, list | tuple) else [given, given]
        sides = [n if n > 8 else 4 * self.patch for n in sides[-2:]]
        frames = self.of(("num_frames", "frames_per_clip"), 4)
        times = self.of(("temporal_patch_size",), 1)
        area = self.channels * self.patch**2
        image = (self.channels, *sides)
        match self.layout.patches:
            case "flat":
                return self.normal(ROWS * 16, area * times)
            case "flat4":
                return self.normal(ROWS * 16, self.channels, self.patch, self.patch)
            case "flat5":
                return self.normal(1, ROWS * 16, self.channels, self.patch, self.patch)
            case "rows":
                return self.normal(ROWS, 16, area)
            case "list" | "pair":
                return self.normal(ROWS, 1 + (self.layout.patches == "pair"), *image)
            case "video":
                return self.normal(ROWS, frames, *image)
            case "channels":
                return self.normal(ROWS, self.channels, frames, *sides)
            case _:
                return self.normal(ROWS, *image)

    def spectrum(self) -> torch.Tensor:
        names = ("num_mel_bins", "n_mels", "feature_size", "input_feat_size", "input_dim",
                 "feature_projection_input_dim", "input_feat_per_channel", "model_in_channels",
                 "input_size", "n_mel_bins")  # fmt: skip
        bins = self.of(names, 80) * self.of(("num_stacked_frames",), 1)
        frames = self.of(("max_length",), FRAMES) if self.of(("frequency_stride",), 0) else FRAMES
        shape = (frames, bins) if self.layout.frames_first else (bins, frames)
        if find(self.config, ("spec_size",), 0):
            shape = (1, *shape)
        return self.normal(ROWS, *shape)

    def sound(self) -> torch.Tensor:
        if find(self.config, ("frequency_stride",), 0):
            return self.spectrum()
        channels = self.layout.channels
        return self.normal(*(ROWS, channels, SAMPLES) if channels else (ROWS, SAMPLES))

    def series(self) -> torch.Tensor:
        length = self.of(("context_length",), 32)
        lags = find(self.config, ("lags_sequence",), [])
        length += max(lags, default=0)
        channels = self.of(("num_input_channels",), 0)
        return self.normal(*(ROWS, length, channels) if channels else (ROWS, length))

    def boxes(self) -> torch.Tensor:
        corners = torch.randint(0, 50, (ROWS, TOKENS, 2), generator=self.random)
        return torch.cat([corners, corners + 20], -1)


def _ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.long)


def _time_features(made: _Made, length: int) -> torch.Tensor:
    return made.normal(ROWS, length, max(1, made.of(("num_time_features",), 1)))


_MAKERS: dict[str, Callable[[_Made], Any]] = {
    "input_ids": _Made.tokens,
    "qformer_input_ids": _Made.tokens,
    "decoder_input_ids": _Made.tokens,
    "attention_mask": lambda m: _ones(ROWS, TOKENS),
    "pixel_values": _Made.pixels,
    "prompt_pixel_values": _Made.pixels,
    "pixel_values_videos": _Made.pixels,
    "hidden_states": _Made.pixels,
    "image_grid_thw": _Made.grid,
    "video_grid_thw": _Made.grid,
    "grid_thw": _Made.grid,
    "merge_sizes": lambda m: _ones(ROWS),
    "mm_token_type_ids": lambda m: 0 * _ones(ROWS, TOKENS),
    "image_sizes": lambda m: torch.tensor([[m.of(("image_size",), 64)] * 2] * ROWS),
    "spatial_shapes": lambda m: torch.tensor([[4, 4]] * ROWS),
    "pixel_attention_mask": lambda m: _ones(ROWS, 16),
    "pixel_position_ids": lambda m: (
        torch.cartesian_prod(torch.arange(4), torch.arange(4)).expand(ROWS, 16, 2).contiguous()
    ),
    "input_features": _Made.spectrum,
    "audio_mel": _Made.spectrum,
    "input_features_mask": lambda m: _ones(ROWS, FRAMES),
    "audio_mel_mask": lambda m: torch.zeros(ROWS, FRAMES, dtype=torch.bool),
    "input_values": _Made.sound,
    "bbox": _Made.boxes,
    "past_values": _Made.series,
    "past_observed_mask": lambda m: torch.ones_like(m.series()),
    "past_time_features": lambda m: _time_features(m, m.series().shape[1]),
    "future_values": lambda m: m.normal(ROWS, m.of(("prediction_length",), 8)),
    "future_time_features": lambda m: _time_features(m, m.of(("prediction_length",), 8)),
    "past_values_padding": lambda m: torch.zeros(ROWS, m.series().shape[1]),
    "freq": lambda m: torch.zeros(ROWS, 1, dtype=torch.long),
    "query_embeds": lambda m: m.normal(ROWS, 8, m.of(("hidden_size",), 64)),
    "inputs_embeds": lambda m: m.normal(ROWS, TOKENS, m.of(("hidden_size",), 64)),
    "latents": lambda m: m.normal(ROWS, m.of(("hidden_size", "latent_dim"), 64), TOKENS),
    "prompt_masks": _Made.pixels,
    "visual_feats": lambda m: m.normal(ROWS, 8, m.of(("visual_feat_dim",), 64)),
    "visual_pos": lambda m: torch.rand(ROWS, 8, 4, generator=m.random),
    "task_inputs": lambda m: torch.randint(0, 200, (ROWS, m.of(("task_seq_len",), 77))),
    "encoder_hidden_states": lambda m: m.normal(ROWS, TOKENS, m.of(("encoder_hidden_size",), 64)),
}
_MAKERS["image_position_ids"] = _MAKERS["pixel_position_ids"]


def make(model: nn.Module, config: PreTrainedConfig, layout: Layout) -> Inputs:
    """The arguments of forward in one layout; what has no maker is left out."""
    made = _Made(config, layout, torch.Generator().manual_seed(0))
    names, needed = parameters(model), required(model)
    inputs = {
        name: _MAKERS[name](made)
        for name in names
        if name in _MAKERS and (name in needed or name in _ALWAYS) and name not in layout.without
    }
    sound = not names.keys() & {"input_ids"} or "decoder_input_ids" in names
    if sound and inputs.keys() & (_SOUNDS | {"past_values"}):
        inputs.pop("attention_mask", None)
    if "input_ids" not in inputs and "decoder_input_ids" not in inputs:
        inputs.pop("attention_mask", None)
    if "use_cache" in names:
        inputs["use_cache"] = False
    return inputs
