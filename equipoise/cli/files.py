"""Files that commands read and write: data, checkpoints, weights; every refusal names the file."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from equipoise.errors import ArgumentError, PlanError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from equipoise.lab.presented import Presented

REPORTS = (".html", ".json", ".txt")
WEIGHTS = (".safetensors", ".pt", ".pth")
PLANS = (".json",)
_DATA = (".npy", ".npz", ".pt", ".pth", ".safetensors")
_CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Where training scripts keep the state dict inside a checkpoint.
_HOMES = ("state_dict", "model_state_dict", "model", "module", "net")
# What wrappers put before every name.
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 5


def check_target(option: str, path: Path | None, endings: Sequence[str]) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        ArgumentError: for an ending that is not known or a folder that is not there.
    """
    if path is None:
        return
    _check_ending(option, path, endings)
    if not path.parent.is_dir():
        raise ArgumentError(
            f"{option} must lie in a folder that exists, got {str(path)!r}. Make the folder first."
        )
    if path.is_dir():
        raise ArgumentError(f"{option} must be a file, got the folder {str(path)!r}. Name a file.")


def check_result(page: Path | None, numbers: Path | None) -> None:
    """Refuse what ``save_result`` could not write, before any work is done.

    Raises:
        ArgumentError: for an ending that is not known or a folder that is not there.
    """
    check_target("--out", page, (".html",))
    check_target("--json", numbers, (".json",))


def save_result(found: "Presented", page: Path | None, numbers: Path | None) -> None:
    """Write what is asked for of a result of the lab, and say where it is.

    Raises:
        ArgumentError: if the system refuses to write.
    """
    if page is not None:
        with writing("--out", page):
            typer.echo(f"page: {found.to_html(page)}")
    if numbers is not None:
        with writing("--json", numbers):
            typer.echo(f"numbers: {found.to_json(numbers)}")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Name the option and the file where the system refuses to write."""
    try:
        yield
    except (OSError, PlanError) as error:
        refused = error if isinstance(error, OSError) else error.__cause__
        why = refused.strerror if isinstance(refused, OSError) else str(error)
        raise ArgumentError(
            f"{option} must be a file that can be written, got {str(path)!r} ({why}). "
            "Choose another place."
        ) from error


def save_weights(model: "nn.Module", path: Path) -> None:
    """Write a state dict; tied tensors are stored under each of their names.

    Raises:
        ArgumentError: if safetensors is not installed, the state holds more than tensors, or the
            file cannot be written.
    """
    import torch

    state = model.state_dict()
    if path.suffix != ".safetensors":
        with writing("--save", path):
            torch.save(state, path)
        return
    foreign = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        raise ArgumentError(
            f"--save must end in .pt for this model, got {path.name!r}: {foreign[0]!r} of its "
            "state is no tensor."
        )
    # Tensors that share memory cannot stand in one file.
    apart = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    data = _safetensors("--save").save(apart)
    with writing("--save", path):
        # A file of safetensors' own making could be read by its owner alone.
        path.write_bytes(data)


def read_data(path: Path) -> tuple[Any, Any]:
    """Inputs and targets from a file; None where there are no targets.

    An array alone is the inputs. Of several, ``targets`` are the targets; the others are either
    ``inputs`` alone or arguments of forward by name. A list of two tensors is (inputs, targets).

    Raises:
        ArgumentError: if the file cannot be read or holds something else.
    """
    import torch

    _check_ending("--data", path, _DATA)
    found = _tensors("--data", path)
    if isinstance(found, list | tuple) and len(found) == 2:
        found = {"inputs": found[0], "targets": found[1]}
    if isinstance(found, torch.Tensor):
        return found, None
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()
    ):
        raise ArgumentError(
            f"--data must hold a tensor, a dict of tensors by name or a pair (inputs, targets), "
            f"got {type(found).__name__} in {path.name!r}. Save "
            "{'inputs': x, 'targets': y}."
        )
    held = dict(found)
    targets = held.pop("targets", None)
    if "inputs" in held and len(held) > 1:
        raise ArgumentError(
            f"--data must hold 'inputs' alone or arguments of forward by name, got "
            f"{', '.join(sorted(held))} in {path.name!r}. Leave one of the two out."
        )
    if not held:
        raise ArgumentError(
            f"--data must hold inputs, got only {', '.join(found) or 'nothing'} in {path.name!r}. "
            "Save them under the name 'inputs'."
        )
    return held.get("inputs", held), targets


def load_checkpoint(model: "nn.Module", path: Path) -> None:
    """Load a state dict into a model; every name and shape must fit.

    Raises:
        ArgumentError: naming the keys that are missing or foreign, or the shapes that differ.
    """
    _check_ending("--checkpoint", path, _CHECKPOINTS)
    state = _state(path, _tensors("--checkpoint", path))
    own = model.state_dict()
    for prefix in _PREFIXES:
        if all(k.startswith(prefix) for k in state) and not any(k.startswith(prefix) for k in own):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    missing, foreign = [k for k in own if k not in state], [k for k in state if k not in own]
    if missing or foreign:
        raise ArgumentError(
            f"--checkpoint must hold exactly the model's tensors, got {path.name!r}: "
            f"missing {_some(missing)}; unexpected {_some(foreign)}. "
            "Pass the factory that made this checkpoint."
        )
    differ = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if hasattr(own[k], "shape") and state[k].shape != own[k].shape
    ]
    if differ:
        raise ArgumentError(
            f"--checkpoint must hold tensors of the model's shapes, got {path.name!r}: "
            f"{_some(differ)}. Pass the factory that made this checkpoint."
        )
    model.load_state_dict(dict(state))


def _state(path: Path, found: Any) -> Mapping[str, Any]:
    """The state dict in a checkpoint, which may stand beside optimizers and counters."""
    import torch

    for home in (None, *_HOMES):
        held = found if home is None else found.get(home) if isinstance(found, Mapping) else None
        if (
            isinstance(held, Mapping)
            and held
            and all(isinstance(v, torch.Tensor) for v in held.values())
        ):
            return held
    keys = _some([str(k) for k in found]) if isinstance(found, Mapping) else type(found).__name__
    raise ArgumentError(
        f"--checkpoint must hold a state dict, alone or under {', '.join(_HOMES)}, got {keys} in "
        f"{path.name!r}. Save model.state_dict()."
    )


def _tensors(option: str, path: Path) -> Any:
    """What a file holds, arrays as tensors; nothing in it is run."""
    import torch

    if not path.is_file():
        raise ArgumentError(
            f"{option} must be a file that exists, got {str(path)!r}. See where you stand."
        )
    try:
        match path.suffix:
            case ".npy" | ".npz":
                held = np.load(path, allow_pickle=False)
                if isinstance(held, np.ndarray):
                    return _tensor(held)
                with held:
                    return {name: _tensor(held[name]) for name in held.files}
            case ".safetensors":
                return _safetensors(option).load_file(path)
            case _:
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArgumentError(
            f"{option} must hold tensors and plain containers alone, got more in {path.name!r}, "
            "or no file of torch.save. Save a state dict or a dict of tensors."
        ) from error
    except ArgumentError:
        raise
    # Each format has errors of its own for a file that is broken or of another format.
    except Exception as error:
        raise ArgumentError(
            f"{option} must be a readable {path.suffix} file, got {path.name!r} "
            f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}). "
            "Save it again, or give it its true ending."
        ) from error


def _tensor(array: "np.ndarray[Any, Any]") -> "torch.Tensor":
    import torch

    # Torch knows only the byte order of the machine.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _safetensors(option: str) -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ArgumentError(
            f"{option} needs the package safetensors for files of that ending, got none installed. "
            "pip install safetensors, or use .pt."
        ) from error
    return safetensors.torch


def _check_ending(option: str, path: Path, endings: Sequence[str]) -> None:
    if path.suffix not in endings:
        raise ArgumentError(
            f"{option} must end in {', '.join(endings)}, got {path.name!r}. Rename it, or save it "
            "in one of these forms."
        )


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more
