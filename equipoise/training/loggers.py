"""Ready ways to hand a monitor's numbers to TensorBoard, Weights & Biases and MLflow.

Each function returns what ``Monitor(log=...)`` takes: a function of a step and a flat dict of
numbers, ``{"signal/encoder.0": 0.97, ...}``. Packages are imported when asked for, never before;
any other logger is a function of the same two arguments.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from equipoise.errors import ArgumentError

__all__ = ["Log", "mlflow", "tensorboard", "wandb"]

Log = Callable[[int, Mapping[str, float]], None]


class Writer(Protocol):
    """What TensorBoard's ``SummaryWriter`` has."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Note one number."""


class Run(Protocol):
    """What a run of Weights & Biases has."""

    def log(self, data: dict[str, Any], step: int) -> Any:
        """Note some numbers."""


class Client(Protocol):
    """What the module ``mlflow`` has."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> Any:
        """Note some numbers."""


def tensorboard(writer: Writer | None = None, folder: str = "runs", prefix: str = "") -> Log:
    """To TensorBoard.

    Args:
        writer: a ``SummaryWriter``; without, a new one is made.
        folder: of the new one.
        prefix: in front of every name.

    Raises:
        ArgumentError: If no writer is given and tensorboard is not installed.

    >>> class Printer:
    ...     def add_scalar(self, tag, scalar_value, global_step):
    ...         print(tag, scalar_value, global_step)
    >>> tensorboard(Printer())(10, {"signal/0": 1.0})
    signal/0 1.0 10
    """
    made = writer
    if made is None:
        made = _imported("torch.utils.tensorboard", "tensorboard", "writer").SummaryWriter(folder)
    kept: Writer = made

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            kept.add_scalar(prefix + name, number, step)

    return log


def wandb(run: Run | None = None, prefix: str = "") -> Log:
    """To Weights & Biases.

    Args:
        run: what ``wandb.init`` returned; without, the run that is active.
        prefix: in front of every name.

    Raises:
        ArgumentError: If no run is given and wandb is not installed or has no active run.
    """
    kept = run if run is not None else _imported("wandb", "wandb", "run").run
    if kept is None:
        raise ArgumentError("run must be active, got none. Call wandb.init() first, or pass run=.")
    active: Run = kept

    def log(step: int, numbers: Mapping[str, float]) -> None:
        active.log({prefix + name: number for name, number in numbers.items()}, step=step)

    return log


def mlflow(client: Client | None = None, prefix: str = "") -> Log:
    """To MLflow; names get ``_`` where MLflow allows no such letter.

    Args:
        client: the module ``mlflow``, or what has its ``log_metrics``; without, it is imported.
        prefix: in front of every name.

    Raises:
        ArgumentError: If no client is given and mlflow is not installed.
    """
    kept: Client = client if client is not None else _imported("mlflow", "mlflow", "client")

    def log(step: int, numbers: Mapping[str, float]) -> None:
        named = {_allowed(prefix + name): number for name, number in numbers.items()}
        kept.log_metrics(named, step=step)

    return log


def _allowed(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def _imported(module: str, package: str, argument: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ArgumentError(
            f"{argument} must be given where {package} is not installed, got None. Install "
            f"{package}, or pass {argument}=."
        ) from error
