"""A monitor and a guard in a training loop that somebody else runs."""

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.rules.finding import Finding
from equipoise.training.guard import Guard
from equipoise.training.guard_names import ClipBy
from equipoise.training.guard_rollback import Rollback
from equipoise.training.loggers import Log
from equipoise.training.monitor import Monitor

_LOGGER = logging.getLogger("equipoise")
_PLACE = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class TrainerWatch:
    """What the callbacks of trainers share: a monitor, and a guard in place of each optimizer.

    Args:
        every: steps from one close look of the monitor to the next, at least 1.
        clip: rules of the guard, as for ``Guard``; None for no clipping.
        rollback: when and how the guard goes back; None for never.
        is_guarded: whether there is a guard at all.
        on_finding: called with each finding; without, it goes to the logger ``equipoise``.
        log: called with each close look, its step and a flat dict.

    Attributes:
        monitor: while and after training; None before.
        guards: one for each optimizer, in their order.

    >>> watch = TrainerWatch()
    >>> model = nn.Linear(2, 1)
    >>> (guard,) = watch.attach(model, [torch.optim.SGD(model.parameters(), 0.1)])
    >>> model(torch.randn(4, 2)).sum().backward()
    >>> guard.step()
    >>> watch.end_step()
    >>> watch.detach()
    >>> watch.monitor.steps, guard.steps
    (1, 1)
    """

    def __init__(
        self,
        every: int = 10,
        clip: ClipBy | None = None,
        rollback: Rollback | None = None,
        is_guarded: bool = True,
        on_finding: Callable[[Finding], None] | None = None,
        log: Log | None = None,
    ) -> None:
        if not is_guarded and (clip is not None or rollback is not None):
            raise ArgumentError(
                "is_guarded must be True where clip or rollback is given, got False. Both are "
                "the guard's."
            )
        self.monitor: Monitor | None = None
        self.guards: tuple[Guard, ...] = ()
        self._every, self._clip, self._rollback = every, clip, rollback
        self._is_guarded, self._log = is_guarded, log
        self._say = on_finding or _logged
        self._held: Sequence[dict[str, Any]] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of the monitor, then of the guards."""
        found = self.monitor.findings if self.monitor is not None else ()
        return (*found, *(f for guard in self.guards for f in guard.findings))

    def attach(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
    ) -> list[torch.optim.Optimizer]:
        """Begin to watch.

        Args:
            model: what trains.
            optimizers: all that move it.

        Returns:
            What has to step in their place.
        """
        movers = list(optimizers)
        self.guards = ()
        if self._is_guarded:
            self.guards = tuple(
                # What is already guarded is left as it is.
                one if isinstance(one, Guard) else Guard(
                    one, self._clip, model=model, rollback=self._rollback, on_finding=self._say
                )
                for one in movers
            )  # fmt: skip
            movers = list(self.guards)
        for guard, held in zip(self.guards, self._held, strict=False):
            guard.load_state_dict({**guard.optimizer.state_dict(), "guard": held})
        self._held = ()
        self.monitor = Monitor(model, movers, self._every, on_finding=self._say, log=self._log)
        return movers

    def observe(self, loss: torch.Tensor) -> None:
        """Note a loss for the monitor; several of one step are averaged."""
        if self.monitor is not None:
            self.monitor.observe(loss)

    def end_step(self) -> None:
        """The optimizers have stepped."""
        if self.monitor is not None:
            self.monitor.step()

    def detach(self) -> None:
        """Take all hooks off; what was found stays."""
        if self.monitor is not None:
            self.monitor.close()
        for guard in self.guards:
            guard.close()

    def state(self) -> list[dict[str, Any]]:
        """What the guards remember, for a checkpoint."""
        return [guard.state_dict()["guard"] for guard in self.guards]

    def go_on_from(self, state: Sequence[dict[str, Any]]) -> None:
        """Take up what guards remembered, once they are attached."""
        self._held = tuple(state)


def _logged(finding: Finding) -> None:
    _LOGGER.log(_PLACE[finding.severity], "%s", finding)


def class_of(module: str, name: str, package: str) -> Any:
    """A class of a package that need not be installed.

    Args:
        module: that has the class.
        name: of the class.
        package: to install.

    Raises:
        ArgumentError: If the package is not installed.

    >>> class_of("logging", "Handler", "python").__name__
    'Handler'
    """
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ArgumentError(
            f"{package} must be installed for its callback, got none. Install it with "
            f"'pip install {package}', or use Monitor and Guard in a loop of your own."
        ) from error
