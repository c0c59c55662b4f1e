"""Numbers and arrays of a plan as plain JSON types, which know neither nan nor arrays."""

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from equipoise.schemes.laws import Array


def with_nan(data: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as they were before null stood for nan."""
    return {k: math.nan if v is None else v for k, v in data.items()}


def array_to_dict(array: Array) -> dict[str, Any]:
    """An array with its bytes as text, which loses nothing."""
    raw = np.ascontiguousarray(array, dtype="<f8").tobytes()
    return {"shape": list(array.shape), "float64": base64.b64encode(raw).decode()}


def array_from_dict(data: Mapping[str, Any]) -> Array:
    """The array that ``array_to_dict`` wrote."""
    flat = np.frombuffer(base64.b64decode(data["float64"]), dtype="<f8")
    return flat.reshape(data["shape"]).astype(np.float64)
