"""The trainings of a comparison as units of work: replicas of one scheme, trained side by side."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from equipoise.errors import ArgumentError, EquipoiseError, in_words
from equipoise.lab.compare_loss import Loss
from equipoise.lab.compare_program import Program
from equipoise.lab.compare_rows import Rows
from equipoise.lab.compare_starts import MakeModel, draw, fresh, generators_kept
from equipoise.lab.compare_training import Course, Trained, train_in_parts
from equipoise.lab.optimizers import SGD, Adam, Optimizer

# Of what a unit computes; results of an earlier one are refused.
VERSION = "1"


def unseen(scheme: str, steps: int) -> None:
    """The progress of a unit, where nobody looks."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What all trainings of a comparison share, as every worker gets it.

    Attributes:
        make_model: makes a new model at each call.
        loss: mean over rows of outputs and targets.
        training: all training rows.
        test: the test part.
        choosing: training rows in two parts: to train on and to choose the rate on.
        progress: called with a scheme and the steps of single replicas done since the last call.
    """

    make_model: MakeModel
    loss: Loss
    training: Rows
    test: Rows
    choosing: tuple[Rows, Rows]
    progress: Callable[[str, int], None] = unseen


def train_part(arguments: dict[str, Any], bench: Bench) -> dict[str, Any]:
    """Replicas of one scheme as a unit of work.

    Args:
        arguments: ``scheme``; ``runs``: pairs of rate and seed; ``is_final``: whether they train on
            all training rows; ``first_seed``: of the draw that plans are made for;
            ``is_vectorised``; ``steps``, ``batch_size`` and ``optimizer`` of the course; and
            ``network``, as ``network_of`` has it. Others are for the store.
        bench: the rest.

    Returns:
        ``left_out``: why the scheme cannot serve the model, '' where it can; then also
        ``at_birth``, ``at_end`` and ``has_diverged`` by replica, and the ``curves`` of final ones.

    Raises:
        ArgumentError: if this process makes another model than the one that asked.
    """
    scheme, is_final = arguments["scheme"], arguments["is_final"]
    rates, seeds = zip(*arguments["runs"], strict=True)
    course = Course(
        arguments["steps"], arguments["batch_size"], optimizer_from(arguments["optimizer"])
    )
    with generators_kept(), torch.inference_mode(False), no_word_of_fallbacks():
        model = fresh(bench.make_model, arguments["first_seed"])
        made = network_of(model)
        if made != arguments["network"]:
            raise ArgumentError(
                f"make_model must make the same model in every process, got {made} for "
                f"{arguments['network']}. Let it depend on nothing but its module; defaults such "
                "as torch.set_default_dtype belong inside it."
            )
        device = next(model.parameters()).device
        rows = (bench.training, bench.test) if is_final else bench.choosing
        drawn = tuple(dict.fromkeys(seeds))
        try:
            starts = draw(
                bench.make_model, scheme, bench.training.x.to(device), drawn,
                arguments["first_seed"],
            )  # fmt: skip
        except EquipoiseError as error:
            return {"left_out": in_words(error).partition(": ")[2]}
        trained = train_in_parts(
            Program(model, bench.loss, arguments["is_vectorised"]), starts,
            [drawn.index(seed) for seed in seeds], (rows[0].to(device), rows[1].to(device)),
            rates, seeds, course, lambda steps: bench.progress(scheme, steps),
        )  # fmt: skip
    return {
        "left_out": "",
        "at_birth": trained.at_birth.tolist(),
        "at_end": trained.at_end.tolist(),
        "has_diverged": trained.has_diverged.tolist(),
        "curves": trained.curve.T.tolist() if is_final else [],
    }


def trained_from(results: Sequence[Mapping[str, Any]]) -> Trained:
    """The replicas of several units, in their order; no curve where they are not final.

    >>> one = {"at_birth": [2.0], "at_end": [1.0], "has_diverged": [False], "curves": [[2.0, 1.5]]}
    >>> trained_from([one, one]).curve.shape
    torch.Size([2, 2])
    """

    def all_of(name: str) -> list[Any]:
        return [value for result in results for value in result[name]]

    # At least as precise as the losses were.
    at_birth, at_end = (
        torch.tensor(all_of(n), dtype=torch.float64) for n in ("at_birth", "at_end")
    )
    curves = all_of("curves")
    curve = torch.tensor(curves).T if curves else torch.zeros(0, len(at_end))
    return Trained(curve, torch.tensor(all_of("has_diverged")), at_birth, at_end)


def network_of(model: nn.Module) -> str:
    """A model in a few words, by which another process and a store know it again.

    >>> network_of(nn.Linear(3, 2)).rpartition(",")[0]
    'Linear, 8 weights on cpu'
    """
    parameters = {n: (tuple(p.shape), str(p.dtype)) for n, p in model.named_parameters()}
    text = f"{model}{parameters}"
    count = sum(p.numel() for p in model.parameters())
    device = next(model.parameters()).device.type
    name = type(model).__name__
    return f"{name}, {count} weights on {device}, {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def rows_in_words(*parts: Rows) -> str:
    """Rows in a few characters, others for any other rows.

    >>> rows_in_words(Rows(torch.zeros(2, 3), torch.zeros(2))).partition(",")[0]
    '2 rows'
    """
    digest = hashlib.sha256()
    for part in parts:
        for values in (part.x, part.y):
            digest.update(f"{values.dtype}{tuple(values.shape)}".encode())
            flat = values.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return f"{sum(len(part) for part in parts)} rows, {digest.hexdigest()[:12]}"


def optimizer_data(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer as plain data.

    >>> optimizer_from(optimizer_data(SGD(momentum=0.9))) == SGD(momentum=0.9)
    True
    """
    return {"kind": type(optimizer).__name__, **asdict(optimizer)}


def optimizer_from(data: Mapping[str, Any]) -> Optimizer:
    """The optimizer of such data."""
    given = {name: value for name, value in data.items() if name != "kind"}
    return SGD(**given) if data["kind"] == "SGD" else Adam(**given)


@contextmanager
def no_word_of_fallbacks() -> Iterator[None]:
    """Keep torch from telling, at each new operation, which could be vectorised better."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield
