"""Families of architectures, as a reader would sort them."""

import inspect
import re

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)
from zoo_roles import role_of
from zoo_sizes import tree

FAMILIES = (
    "text decoder", "encoder", "encoder-decoder", "vision", "audio", "multimodal", "state space",
    "mixture of experts", "time series", "other",
)  # fmt: skip
_RECURRENT = re.compile(
    r"mamba|rwkv|xlstm|ssm|_lru|lru_width|linear_attention|recurrent|linear_key"
)


def family(name: str) -> str:
    """The first family that fits, from the most to the least particular; no model is built."""
    config = CONFIG_MAPPING[name]()
    kind = MODEL_MAPPING[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    try:
        read = set(inspect.signature(kind.forward).parameters)
    except ImportError:
        # A class that needs another package has no forward to look at.
        return "other"
    text, image = "input_ids" in read, bool(read & {"pixel_values", "pixel_values_videos"})
    sound = bool(read & {"input_values", "input_features", "audio_mel"})
    own = [key for part in tree(config) for key in vars(part)]
    kinds = [str(v) for part in tree(config) for k, v in vars(part).items() if "layer" in k]
    if "past_values" in read:
        return "time series"
    if text + image + sound > 1 or {"image_embeds", "qformer_input_ids"} & read:
        return "multimodal"
    if sound:
        return "audio"
    if image or ("hidden_states" in read and "grid_thw" in read):
        return "vision"
    if any(_RECURRENT.search(word) for word in (name, *own, *kinds)):
        return "state space"
    if any(
        role_of(key) == "experts" and isinstance(value, int) and value > 1
        for part in tree(config)
        for key, value in vars(part).items()
    ):
        return "mixture of experts"
    if "decoder_input_ids" in read:
        return "encoder-decoder"
    if text and name in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if text and name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "text decoder"
    return "encoder" if text else "other"
