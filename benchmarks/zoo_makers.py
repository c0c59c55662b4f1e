"""Arguments of forward by their names, each made for one configuration and layout."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedConfig
from zoo_sizes import tree

ROWS, TOKENS, FRAMES, SAMPLES = 4, 16, 64, 7680
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What a signature does not say.

    Attributes:
        frames_first: whether spectra are (rows, frames, bins), not (rows, bins, frames).
        patches: how pixels come: ``image``, ``list`` (one more axis of images), ``tiles`` (the
            same, masked as a whole), ``pair`` (two of them), ``flat`` (rows of patches of all
            images; ``flat4`` and ``flat5`` with axes of their own for channels and pixels),
            ``rows`` (patches by image), ``strip`` (all patches beside each other in one image),
            ``last`` (merged patches, channels last; ``last5`` with an axis of times), ``video``
            or ``channels`` (video with channels first).
        without: arguments that are left out.
        channels: channels of sound, 0 for no such axis.
    """

    frames_first: bool = True
    patches: str = "image"
    without: frozenset[str] = frozenset()
    channels: int = 0


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
class Made:
    """Makes arguments by name, always the same for one model and layout."""

    config: PreTrainedConfig
    layout: Layout
    random: torch.Generator

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.random)

    def of(self, names: tuple[str, ...], default: Any) -> int:
        """The first size of one of these names."""
        return whole(find(self.config, names, default))

    @property
    def patch(self) -> int:
        """Side of a patch."""
        return self.of(("patch_size", "vision_patch_size"), 16)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.of(("num_channels", "in_channels", "in_chans", "input_channels"), 3)

    @property
    def frames(self) -> int:
        """Columns of a spectrum: one window where a model counts in windows."""
        return 2 * self.of(("n_window",), 0) if self.of(("n_window_infer",), 0) else FRAMES

    def tokens(self) -> torch.Tensor:
        """Identities of tokens that are not special."""
        most = max(8, min(self.of(("vocab_size",), 128), 200))
        return torch.randint(16 if most > 32 else 5, most, (ROWS, TOKENS), generator=self.random)

    def grid(self, side: int = 4) -> torch.Tensor:
        """Patches of each image in time, height and width."""
        return torch.tensor([[1, side, side]] * ROWS)

    def pixels(self) -> torch.Tensor:
        """Images or what the layout has in their place."""
        given = find(self.config, ("image_size", "img_size", "input_size"), 64)
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
            case "strip":
                return self.normal(1, self.channels, self.patch, self.patch * ROWS * 16)
            case "last":
                side = self.patch * self.of(("spatial_merge_size",), 1)
                return self.normal(ROWS * 16, side, side, self.channels)
            case "last5":
                return self.normal(ROWS * 4, times, self.patch, self.patch, self.channels)
            case "rows":
                return self.normal(ROWS, 16, area)
            case "list" | "tiles" | "pair":
                return self.normal(ROWS, 1 + (self.layout.patches == "pair"), *image)
            case "video":
                return self.normal(ROWS, frames, *image)
            case "channels":
                return self.normal(ROWS, self.channels, frames, *sides)
            case _:
                return self.normal(ROWS, *image)

    def videos(self) -> torch.Tensor:
        """Pixels of videos, whatever those of images are."""
        still = self.layout.patches in ("image", "list", "tiles", "pair")
        layout = replace(self.layout, patches="video") if still else self.layout
        return replace(self, layout=layout).pixels()

    def pixel_mask(self) -> torch.Tensor:
        """That all pixels, patches or tiles are there."""
        pixels = self.pixels()
        match self.layout.patches:
            case "list" | "pair":
                return torch.ones(*pixels.shape[:2], *pixels.shape[-2:], dtype=torch.bool)
            case "tiles":
                return torch.ones(pixels.shape[:2], dtype=torch.bool)
            case _:
                return ones(ROWS, 16)

    def larger(self) -> torch.Tensor:
        """Images for a second tower, of its size."""
        tower = find(self.config, ("high_res_vision_config",), self.config)
        return Made(tower, Layout(), self.random).pixels()

    def spectrum(self) -> torch.Tensor:
        """Spectra of sounds."""
        names = ("num_mel_bins", "n_mels", "feature_size", "input_feat_size", "input_dim",
                 "feature_projection_input_dim", "input_feat_per_channel", "model_in_channels",
                 "input_size", "n_mel_bins")  # fmt: skip
        channels = find(self.config, ("subsampling_conv_channels",), 0)
        if isinstance(channels, list | tuple):
            # What is left of the bins by two strides is counted from the channels.
            return self.normal(ROWS, FRAMES, channels[0])
        bins = self.of(names, 80) * self.of(("num_stacked_frames",), 1)
        frames = self.frames
        if self.of(("frequency_stride",), 0):
            frames = self.of(("max_length",), FRAMES)
        shape = (frames, bins) if self.layout.frames_first else (bins, frames)
        if find(self.config, ("spec_size",), 0):
            shape = (1, *shape)
        return self.normal(ROWS, *shape)

    def sound(self) -> torch.Tensor:
        """Waves of sounds."""
        if find(self.config, ("frequency_stride",), 0):
            return self.spectrum()
        channels = self.layout.channels
        return self.normal(*(ROWS, channels, SAMPLES) if channels else (ROWS, SAMPLES))

    def series(self) -> torch.Tensor:
        """Series that are as long as a model looks back."""
        length = self.of(("context_length",), 32)
        lags = find(self.config, ("lags_sequence",), [])
        length += max(lags, default=0)
        channels = self.of(("num_input_channels",), 0)
        return self.normal(*(ROWS, length, channels) if channels else (ROWS, length))

    def boxes(self) -> torch.Tensor:
        """A box for each token."""
        corners = torch.randint(0, 50, (ROWS, TOKENS, 2), generator=self.random)
        return torch.cat([corners, corners + 20], -1)


def _codes(made: Made) -> torch.Tensor:
    """Sounds as entries of codebooks."""
    books = made.of(("num_codebooks", "n_codebooks", "num_mel_bins", "n_mel_bins"), 1)
    most = made.of(("codebook_size", "audio_vocab_size"), 16)
    return torch.randint(0, min(most, 16), (ROWS, 8, books), generator=made.random)


def ones(*shape: int) -> torch.Tensor:
    """Whole numbers, all 1."""
    return torch.ones(shape, dtype=torch.long)


def _time_features(made: Made, length: int) -> torch.Tensor:
    return made.normal(ROWS, length, max(1, made.of(("num_time_features",), 1)))


MAKERS: dict[str, Callable[[Made], Any]] = {
    "input_ids": Made.tokens,
    "qformer_input_ids": Made.tokens,
    "decoder_input_ids": Made.tokens,
    "attention_mask": lambda m: ones(ROWS, TOKENS),
    "pixel_values": Made.pixels,
    "prompt_pixel_values": Made.pixels,
    "pixel_values_videos": Made.videos,
    "hidden_states": Made.pixels,
    "image_grid_thw": Made.grid,
    "video_grid_thw": Made.grid,
    "grid_thw": Made.grid,
    "merge_sizes": lambda m: ones(ROWS),
    "mm_token_type_ids": lambda m: 0 * ones(ROWS, TOKENS),
    "moe_mm_token_type_ids": lambda m: 0 * ones(ROWS, TOKENS),
    "global_attention_mask": lambda m: torch.tensor([[1] + [0] * (TOKENS - 1)] * ROWS),
    "entity_ids": lambda m: torch.arange(4).expand(ROWS, 4).contiguous(),
    "entity_position_ids": lambda m: torch.arange(12).reshape(1, 4, 3).repeat(ROWS, 1, 1),
    "input_boxes": lambda m: torch.rand(ROWS, 2, 4, generator=m.random) / 2,
    "image_merge_sizes": lambda m: ones(ROWS),
    "high_res_pixel_values": Made.larger,
    "pixel_values_local": Made.pixels,
    "num_local_patches": lambda m: [1] * ROWS,
    "image_attention_mask": lambda m: ones(ROWS, TOKENS, 1 + (m.layout.patches == "pair")),
    "target_sizes": lambda m: torch.tensor([[4, 4]] * ROWS),
    "images_per_sample": lambda m: ones(ROWS),
    "audio_input_ids": _codes,
    "audio_input_ids_mask": lambda m: ones(ROWS, 8).bool(),
    "feature_attention_mask": lambda m: ones(ROWS, m.frames),
    "image_sizes": lambda m: torch.tensor([[m.of(("image_size",), 64)] * 2] * ROWS),
    "spatial_shapes": lambda m: torch.tensor([[4, 4]] * ROWS),
    "pixel_attention_mask": Made.pixel_mask,
    "pixel_position_ids": lambda m: (
        torch.cartesian_prod(torch.arange(4), torch.arange(4)).expand(ROWS, 16, 2).contiguous()
    ),
    "input_features": Made.spectrum,
    "audio_mel": Made.spectrum,
    "input_features_mask": lambda m: ones(ROWS, m.frames),
    "audio_mel_mask": lambda m: torch.zeros(ROWS, FRAMES, dtype=torch.bool),
    "input_values": Made.sound,
    "bbox": Made.boxes,
    "past_values": Made.series,
    "past_observed_mask": lambda m: torch.ones_like(m.series()),
    "past_time_features": lambda m: _time_features(m, m.series().shape[1]),
    "future_values": lambda m: m.normal(ROWS, m.of(("prediction_length",), 8)),
    "future_time_features": lambda m: _time_features(m, m.of(("prediction_length",), 8)),
    "past_values_padding": lambda m: torch.zeros(ROWS, m.series().shape[1]),
    "freq": lambda m: torch.zeros(ROWS, 1, dtype=torch.long),
    "query_embeds": lambda m: m.normal(ROWS, 8, m.of(("hidden_size",), 64)),
    "action_embeds": lambda m: m.normal(ROWS, 8, m.of(("hidden_size",), 64)),
    "inputs": lambda m: m.normal(ROWS, TOKENS, m.of(("d_model",), 64)),
    "inputs_embeds": lambda m: m.normal(ROWS, TOKENS, m.of(("hidden_size",), 64)),
    "latents": lambda m: m.normal(ROWS, m.of(("hidden_size", "latent_dim"), 64), TOKENS),
    "prompt_masks": Made.pixels,
    "visual_feats": lambda m: m.normal(ROWS, 8, m.of(("visual_feat_dim",), 64)),
    "visual_embeds": lambda m: m.normal(ROWS, 8, m.of(("visual_embedding_dim",), 64)),
    "visual_pos": lambda m: torch.rand(ROWS, 8, 4, generator=m.random),
    "task_inputs": lambda m: torch.randint(0, 200, (ROWS, m.of(("task_seq_len",), 77))),
    "encoder_hidden_states": lambda m: m.normal(ROWS, TOKENS, m.of(("encoder_hidden_size",), 64)),
}
MAKERS["image_position_ids"] = MAKERS["pixel_position_ids"]
