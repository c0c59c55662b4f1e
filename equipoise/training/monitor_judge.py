"""From readings to findings: every judge, and which findings are said."""

from collections.abc import Sequence

from torch import nn

from equipoise.rules.finding import Finding
from equipoise.training.guard_names import Watched
from equipoise.training.monitor_judge_layers import Layers
from equipoise.training.monitor_judge_numbers import Numbers
from equipoise.training.monitor_judge_parameters import ParameterJudge, weights_by_layer
from equipoise.training.monitor_judge_steps import StepJudge
from equipoise.training.monitor_limits import AGAIN
from equipoise.training.monitor_row import Reading


class Judge:
    """Judges steps in order.

    Args:
        model: what trains.
        watched: the parameters of all optimizers.
        has_scaler: whether the loss is scaled.
    """

    def __init__(self, model: nn.Module, watched: Sequence[Watched], has_scaler: bool) -> None:
        self._model, self._has_scaler = model, has_scaler
        self._layers = Layers()
        # Step at which a finding was last true.
        self._said: dict[tuple[str, str, str], int] = {}
        self._count = 0
        self.follow(watched)

    def follow(self, watched: Sequence[Watched]) -> None:
        """Go on with these parameters."""
        self._watched = watched
        self._numbers = Numbers(watched, self._has_scaler)
        self._steps = StepJudge(watched)
        self._parameters = ParameterJudge(self._model, watched)

    def judge(self, one: Reading) -> list[Finding]:
        """Findings of a step that are new, or come back after some steps without them."""
        self._count += 1
        found = list(self._numbers.judge(one))
        if not self._numbers.is_lost:
            found += self._parameters.judge(one)
            found += self._steps.judge(one)
            if one.is_close:
                weights = one.by_parameter.get("weight")
                norms = {} if weights is None else weights_by_layer(self._watched, weights)
                found += self._layers.judge(one, dict(norms))
        return [f for f in found if self._is_news(f)]

    def _is_news(self, finding: Finding) -> bool:
        key = finding.code, finding.where, finding.severity
        before = self._said.get(key)
        self._said[key] = self._count
        return before is None or self._count - before > AGAIN
