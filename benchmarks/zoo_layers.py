"""Which layers of an architecture stay: one of each kind, at least two."""

import re
from typing import Any

from transformers import PreTrainedConfig

MOST_KINDS = 4
_BY_LAYER = re.compile(r"layer|types|pattern|block|sparsity|per_layer|attention_window|indexer")
_OUTPUTS = re.compile(
    r"out_indices|hook_ids|hidden_state_ind|deepstack|target_layer|extract_layers|layers_indices"
)


def write(config: PreTrainedConfig, name: str, value: Any) -> None:
    """Set an attribute past all checks: relations hold only when all are set."""
    config.__dict__[name] = value


def is_layer(key: object) -> bool:
    """Whether the key of a dict is the number of a layer."""
    return isinstance(key, int) or (isinstance(key, str) and key.isdigit())


def shrink_layers(config: PreTrainedConfig) -> str | None:
    """Keep one layer of each kind, and in lists by layer what belongs to those.

    Returns:
        The attribute with the number of layers, None if nothing was shrunken.
    """
    name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    name = name if name in vars(config) else "depth"
    count = vars(config).get(name)
    if not isinstance(count, int) or count < 3 or "depths" in vars(config):
        return None
    by_layer, subsets, outputs = {}, {}, {}
    for attribute, value in vars(config).items():
        if isinstance(value, dict) and value and all(is_layer(key) for key in value):
            subsets[attribute] = value
        if not isinstance(value, list | tuple) or not value or attribute == "stage_names":
            continue
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        places = whole and len(set(value)) == len(value) and max(value) <= count
        if _OUTPUTS.search(attribute) and whole and max(value) <= count:
            # Each of these goes to a layer of its own of a decoder, of which two may be left.
            outputs[attribute] = value[:2] if "deepstack" in attribute else value
        elif places and max(value) > 1 and re.search(r"layer|ind|idx|block", attribute):
            subsets[attribute] = value
        elif len(value) == count and _BY_LAYER.search(attribute):
            by_layer[attribute] = value
    kept = kept_layers(count, by_layer, subsets, max((len(v) for v in outputs.values()), default=0))
    for attribute, value in by_layer.items():
        write(config, attribute, type(value)(value[i] for i in kept))
    for attribute, value in subsets.items():
        if isinstance(value, dict):
            new = {k: v for k, v in value.items() if int(k) in kept}
            write(config, attribute, {type(k)(kept.index(int(k))): v for k, v in new.items()})
        else:
            write(config, attribute, type(value)(kept.index(i) for i in value if i in kept))
    for attribute, value in outputs.items():
        first = 1 if max(value) == count or "stage_names" in vars(config) else 0
        write(config, attribute, type(value)(first + i for i in range(len(value))))
    write(config, name, len(kept))
    _shrink_stages(config, len(kept), count)
    return name


def kept_layers(
    count: int, by_layer: dict[str, Any], subsets: dict[str, Any], least: int
) -> list[int]:
    """The first layer of each kind, and further ones up to two or as many as are read."""
    kinds: dict[str, int] = {}
    for i in range(count):
        kind = [repr(value[i]) for value in by_layer.values()]
        kind += [str(i in value or str(i) in value) for value in subsets.values()]
        kinds.setdefault(" ".join(kind), i)
    kept = list(kinds.values())[:MOST_KINDS]
    spare = (i for i in range(count) if i not in kept)
    while len(kept) < min(count, max(2, least)):
        kept.append(next(spare))
    return sorted(kept)


def _shrink_stages(config: PreTrainedConfig, kept: int, count: int) -> None:
    """Names of the stages of a backbone whose stages are its layers."""
    names = vars(config).get("stage_names")
    if not names or len(names) != count + 1:
        return
    names = list(names[: kept + 1])
    write(config, "stage_names", names)
    indices = vars(config).get("_out_indices") or [kept]
    indices = [min(i, kept) if i >= 0 else kept for i in indices]
    write(config, "_out_indices", indices)
    write(config, "_out_features", [names[i] for i in indices])
