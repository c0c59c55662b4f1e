"""Where a comparison is trained, and what must be so for its functions to get there."""

import pickle
import sys
from collections.abc import Mapping

import torch

from equipoise import _checks
from equipoise.errors import ArgumentError, in_words
from equipoise.lab.work import PLACES, Place, choose_place, cores, name_in_module
from equipoise.lab.work_processes import REFUSALS
from equipoise.lab.work_ray import has_ray


def check_place(on: Place, sent: Mapping[str, object], is_stored: bool) -> None:
    """Refuse a function that cannot get to where it is wanted, or that a store cannot name.

    Args:
        on: the place.
        sent: functions by name of the argument; names of known losses are strings.
        is_stored: whether results are stored.

    Raises:
        ArgumentError: naming the argument.
    """
    _checks.one_of("on", on, PLACES)
    for name, value in sent.items():
        if is_stored and not isinstance(value, str) and not name_in_module(value):
            raise ArgumentError(
                f"{name} must be a function or class of a module where store is given, which knows "
                f"it by that name, got {value!r}. Define it at the top of a module, or leave store "
                "out."
            )
        why = _why_not_sent(value, on)
        if why and on != "auto":
            raise ArgumentError(
                f"{name} must be one that other processes can get for on={on!r}, got {why}. "
                "Define it at the top of a module, or pass on='here'."
            )


def chosen_place(
    on: Place, sent: Mapping[str, object], device: torch.device, jobs: int
) -> tuple[Place, str]:
    """Where to train, and why where it was left open.

    Args:
        on: what was asked for.
        sent: as for ``check_place``.
        device: of the model.
        jobs: units at a time, 0 for one on each core.

    Returns:
        A place other than ``auto``, and the reason; '' where it was asked for.

    >>> chosen_place("auto", {"make_model": lambda: 1}, torch.device("cpu"), 2)[0]
    'here'
    """
    if on != "auto":
        return on, ""
    for name, value in sent.items():
        why = _why_not_sent(value, on)
        if why:
            return "here", f"{name} is {why}"
    if device.type != "cpu":
        return "here", f"the model is on {device}, which several processes would have to share"
    if (jobs or cores()) == 1:
        return "here", "one unit at a time was asked for" if jobs else "there is one core"
    return choose_place()


def _why_not_sent(value: object, on: Place) -> str:
    """What stands in the way of a value; '' where nothing does."""
    if on == "here" or isinstance(value, str):
        return ""
    if on == "ray":
        return _why_not_on_ray(value)
    try:
        held = pickle.dumps(value)
    except REFUSALS as error:
        return f"{value!r}, which cannot be pickled ({in_words(error)})"
    main = sys.modules["__main__"]
    is_file = bool(getattr(main, "__file__", None) or getattr(main, "__spec__", None))
    if b"__main__" in held and not is_file:
        return f"{value!r} of an interactive session, which has no file to import it from"
    return ""


def _why_not_on_ray(value: object) -> str:
    """Ray takes what is inside of functions too; a module must be importable on its nodes."""
    # What is not installed is told by whoever needs it.
    if not has_ray():
        return ""
    from ray import cloudpickle

    try:
        cloudpickle.dumps(value)
    except REFUSALS as error:
        return f"{value!r}, which cannot be pickled ({in_words(error)})"
    return ""
