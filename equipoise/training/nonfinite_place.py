"""Where an operation was asked for: the module, and the lines of code that are not torch's."""

import linecache
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

# Lines that are kept of each place, innermost first.
_LINES = 4
_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep
# Packages that a user installs may lie inside the standard library's folder.
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Line:
    """A line of code.

    Attributes:
        file: its path.
        number: counted from 1.
        function: that it stands in.
    """

    file: str
    number: int
    function: str

    @property
    def text(self) -> str:
        """What it says, '' where the source is not at hand."""
        return linecache.getline(self.file, self.number).strip()

    def __str__(self) -> str:
        text = f": {self.text}" if self.text else ""
        return f"{self.file}:{self.number} in {self.function}{text}"


@dataclass(frozen=True)
class Place:
    """Where an operation was asked for.

    Attributes:
        module: path of the innermost module of the model that was being called, '' for the model
            itself, None outside of it.
        lines: of code that is neither torch's nor the standard library's, innermost first. Behind
            autograd's engine they end: an operation of its own has none.
        is_update: whether an optimizer's step was under way.
        is_recomputed: whether checkpointing asked for it.
    """

    module: str | None
    lines: tuple[Line, ...]
    is_update: bool = False
    is_recomputed: bool = False


class _Part(Enum):
    """What a function on the stack is to us."""

    INSIDE = auto()
    USER = auto()
    CALL = auto()
    ENGINE = auto()
    UPDATE = auto()
    AGAIN = auto()


class Stack:
    """Reads places off the stack of the running thread."""

    def __init__(self, model: nn.Module, entered: FrameType | None = None) -> None:
        self._names: Mapping[int, str] = {
            id(m): plain_name(name) for name, m in model.named_modules()
        }
        self._parts: dict[CodeType, _Part] = {}
        self._places: dict[Any, Place] = {}
        # Nothing behind the block's own frame is of interest.
        self._entered = entered

    def leave(self) -> None:
        """Let go of the frame that the block stands in."""
        self._entered = None

    def here(self, lines: int = _LINES) -> Place:
        """The place that the running operation was asked for.

        Args:
            lines: of user code that are looked for, at least 1.
        """
        at: FrameType | None = sys._getframe(2)
        found = list[tuple[CodeType, int]]()
        module, is_update, is_again, parts = None, False, False, self._parts
        while at is not None:
            code = at.f_code
            part = parts.get(code) or self._part(code)
            if part is _Part.USER:
                if len(found) < lines:
                    found.append((code, at.f_lineno))
                if len(found) == lines and module is not None:
                    break
            elif part is _Part.CALL:
                if module is None:
                    module = self._names.get(id(at.f_locals["self"]))
            elif part is _Part.ENGINE:
                break
            elif part is _Part.UPDATE:
                is_update = True
            elif part is _Part.AGAIN:
                is_again = True
            if at is self._entered:
                break
            at = at.f_back
        key = (module, is_update, is_again, *found)
        place = self._places.get(key)
        if place is None:
            said = tuple(Line(code.co_filename, number, code.co_name) for code, number in found)
            place = self._places[key] = Place(module, said, is_update, is_again)
        return place

    def _part(self, code: CodeType) -> _Part:
        part = self._parts[code] = _part(code)
        return part


def plain_name(path: str) -> str:
    """A name inside of a model without what torch.compile puts around it.

    >>> plain_name("_orig_mod.blocks.0")
    'blocks.0'
    """
    return ".".join(word for word in path.split(".") if word != "_orig_mod")


def optimizer_running() -> torch.optim.Optimizer | None:
    """The optimizer whose step is under way in this thread."""
    at: FrameType | None = sys._getframe(1)
    while at is not None:
        if _part(at.f_code) is _Part.UPDATE:
            for value in at.f_locals.get("args", ()):
                if isinstance(value, torch.optim.Optimizer):
                    return value
        at = at.f_back
    return None


def is_called_from(function: str, file: str) -> bool:
    """Whether a function of torch is on the stack of this thread."""
    at: FrameType | None = sys._getframe(1)
    while at is not None:
        if at.f_code.co_name == function and at.f_code.co_filename.endswith(file):
            return True
        at = at.f_back
    return False


def _part(code: CodeType) -> _Part:
    file, name = code.co_filename, code.co_name
    if file.startswith(_TORCH):
        match name, file.removeprefix(_TORCH).replace(os.sep, "/"):
            case "_call_impl" | "_wrapped_call_impl", "nn/modules/module.py":
                return _Part.CALL
            # Both ways of checkpointing, in the backward pass.
            case "recompute_fn" | "unpack_hook" | "backward", "utils/checkpoint.py":
                return _Part.AGAIN
            case "_engine_run_backward", "autograd/graph.py":
                return _Part.ENGINE
            # The step of every optimizer is wrapped in this.
            case "wrapper", "optim/optimizer.py" if "profile_hook_step" in code.co_qualname:
                return _Part.UPDATE
        return _Part.INSIDE
    if file.startswith(_HERE) or file.startswith("<frozen"):
        return _Part.INSIDE
    if file.startswith(_LIBRARY) and not any(word in file for word in _INSTALLED):
        return _Part.INSIDE
    return _Part.USER
