"""A Plan: one law for every parameter, or the reason why it is left alone."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from equipoise._text import without_nan
from equipoise.errors import PlanError
from equipoise.plan.aim import Aim
from equipoise.plan.difference import Difference, difference
from equipoise.plan.odds import Outlook
from equipoise.plan.plan_data import array_from_dict, array_to_dict, with_nan
from equipoise.plan.selection import Selection
from equipoise.plan.trace import Parameter
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.law_data import describe, law_from_dict, law_to_dict
from equipoise.schemes.laws import Array, Frame, Law

FORMAT = 1
_ANEW = (
    "Make the plan anew for this model, or carry its intent over to a sibling of other widths or "
    "depth with equipoise.torch.transfer(plan, model, inputs)."
)
_NO_AIM, _EVERYTHING = Aim(), Selection()


@dataclass(frozen=True)
class Assignment:
    """What one parameter is drawn from and why.

    Attributes:
        parameter: its name in the model.
        shape: its shape.
        law: the law it is drawn from.
        reason: one sentence.
    """

    parameter: str
    shape: tuple[int, ...]
    law: Law
    reason: str


@dataclass(frozen=True)
class Untouched:
    """A parameter that keeps its values.

    Attributes:
        parameter: its name in the model.
        shape: its shape.
        reason: one sentence.
    """

    parameter: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Prediction:
    """What theory expects at one affine layer, nan where it does not reach.

    Attributes:
        layer: name of the layer.
        weight: name of its weight.
        signal: RMS of its output over units and inputs, in the median draw.
        gradient: RMS of the gradient at its output, relative to that at the last layer of its
            chain of stacks.
        stack: number of that chain: of stacks with nothing between them, followed as one.
        log_std: standard deviation over draws of the log of the signal, nats; 0 where negligible.
        gradient_log_std: the same of the gradient.
        correlation: mean cosine between the layer's outputs for different inputs.
        correlation_std: its standard deviation over draws, 0 where it is not known.
        across: RMS of the gradient at its output over that of a random cotangent at all outputs of
            the model.
    """

    layer: str
    weight: str
    signal: float
    gradient: float
    stack: int
    log_std: float = 0.0
    gradient_log_std: float = 0.0
    correlation: float = math.nan
    correlation_std: float = 0.0
    across: float = math.nan


@dataclass(frozen=True, eq=False)
class Plan:
    """Laws for all parameters of a model. Data only: it can be saved, compared and drawn anywhere.

    Two plans are equal if all they say is, arrays compared by value and nan equal to nan.

    Attributes:
        scheme: name of the scheme that was asked for.
        choice: one sentence on the residual branches, where there are any, and one for each stack
            of layers: what was chosen and why.
        assignments: parameters that are drawn.
        untouched: parameters that are not, each with its reason.
        frames: orthonormal frames that couple the laws.
        arrays: arrays that laws refer to by name (axes and mean of the inputs).
        predictions: expected signal and gradient by layer, in the order of computation.
        outlook: what is expected of each stack as a whole, and the odds of a usable draw.
        residual: name of the rule for residual branches.
        silent: weights and gains that start at 0; what only they pass on waits for them to move.
        notes: limits of the plan that a reader should know.
        warnings: what theory says against any start of this model.
        aim: what the model was said to be for.
        selection: which parameters were to be drawn.
    """

    scheme: str
    choice: tuple[str, ...]
    assignments: tuple[Assignment, ...]
    untouched: tuple[Untouched, ...]
    frames: tuple[Frame, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    outlook: tuple[Outlook, ...] = ()
    aim: Aim = _NO_AIM
    selection: Selection = _EVERYTHING
    residual: str = "auto"
    silent: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        # Infinity counts as nan, as in a file: a plan that is read again equals what was saved.
        if not isinstance(other, Plan):
            return NotImplemented
        return bool(without_nan(self.to_dict()) == without_nan(other.to_dict()))

    def __hash__(self) -> int:
        return hash((self.scheme, self.choice, tuple(a.parameter for a in self.assignments)))

    def streams(self, seed: int) -> Streams:
        """Random streams for drawing this plan from a root seed."""
        return Streams(
            seed,
            {frame.id: frame for frame in self.frames},
            self.arrays,
            {a.parameter: (a.law, a.shape) for a in self.assignments},
        )

    def draw(self, parameter: str, seed: int) -> Array:
        """Draw one parameter alone, float64; the others need not exist.

        Raises:
            PlanError: if the plan assigns no law to a parameter of that name.
        """
        for assignment in self.assignments:
            if assignment.parameter == parameter:
                return draw(assignment.law, parameter, assignment.shape, self.streams(seed))
        raise PlanError(
            f"parameter must be assigned by the plan, got {parameter!r}. See .untouched."
        )

    def verify_complete(self, parameters: tuple[Parameter, ...]) -> None:
        """Check that every parameter stands in exactly one place, with its shape.

        Raises:
            PlanError: naming the parameters that are missing, foreign or listed twice.
        """
        listed = [a.parameter for a in self.assignments] + [u.parameter for u in self.untouched]
        shapes = {a.parameter: a.shape for a in self.assignments}
        shapes |= {u.parameter: u.shape for u in self.untouched}
        known = {p.name for p in parameters}
        missing, foreign = sorted(known - set(listed)), sorted(set(listed) - known)
        twice = sorted(name for name, count in Counter(listed).items() if count > 1)
        if missing or foreign or twice:
            raise PlanError(
                f"the plan must list each parameter once; missing: {missing}, "
                f"foreign: {foreign}, twice: {twice}. {_ANEW}"
            )
        for p in parameters:
            if tuple(shapes[p.name]) != p.shape:
                raise PlanError(
                    f"{p.name!r} must have shape {tuple(shapes[p.name])} as planned, got "
                    f"{p.shape}. {_ANEW}"
                )

    def diff(self, other: "Plan") -> Difference:
        """What another plan does otherwise: a false value where it draws the same.

        Args:
            other: the plan that this one is held against; its side stands to the right of arrows.

        Returns:
            Parameters that only one of the two draws, that have another law, or another scale, and
            arrays of other values. Reasons, notes and expectations are not compared.
        """
        return difference(
            {a.parameter: a.law for a in self.assignments},
            {a.parameter: a.law for a in other.assignments},
            self.arrays,
            other.arrays,
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON types."""
        return {
            "format": FORMAT,
            "scheme": self.scheme,
            "residual": self.residual,
            "silent": list(self.silent),
            "choice": list(self.choice),
            "assignments": [
                {
                    "parameter": a.parameter,
                    "shape": list(a.shape),
                    "law": law_to_dict(a.law),
                    "reason": a.reason,
                }
                for a in self.assignments
            ],
            "untouched": [
                {"parameter": u.parameter, "shape": list(u.shape), "reason": u.reason}
                for u in self.untouched
            ],
            "frames": [asdict(frame) for frame in self.frames],
            "arrays": {name: array_to_dict(a) for name, a in self.arrays.items()},
            "predictions": [asdict(p) for p in self.predictions],
            "outlook": [asdict(o) for o in self.outlook],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "aim": asdict(self.aim),
            "selection": {k: list(v) for k, v in asdict(self.selection).items()},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Plan":
        """The plan that ``to_dict`` described.

        Raises:
            PlanError: if the data are of another format.
        """
        found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
        if found != FORMAT:
            raise PlanError(
                f"format must be {FORMAT}, got {found!r}. "
                "Save the plan again with this version of equipoise."
            )
        return Plan(
            scheme=data["scheme"],
            choice=tuple(data["choice"]),
            assignments=tuple(
                Assignment(a["parameter"], tuple(a["shape"]), law_from_dict(a["law"]), a["reason"])
                for a in data["assignments"]
            ),
            untouched=tuple(
                Untouched(u["parameter"], tuple(u["shape"]), u["reason"]) for u in data["untouched"]
            ),
            frames=tuple(Frame(**f) for f in data["frames"]),
            arrays={name: array_from_dict(a) for name, a in data["arrays"].items()},
            predictions=tuple(Prediction(**with_nan(p)) for p in data["predictions"]),
            notes=tuple(data["notes"]),
            warnings=tuple(data["warnings"]),
            outlook=tuple(Outlook(**with_nan(o)) for o in data["outlook"]),
            aim=Aim(**with_nan(data.get("aim", {}))),
            selection=Selection(**{k: tuple(v) for k, v in data.get("selection", {}).items()}),
            residual=data.get("residual", "auto"),
            silent=tuple(data.get("silent", ())),
        )

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON and return the path.

        Raises:
            PlanError: if the system refuses to write there.
        """
        path = Path(path)
        text = json.dumps(without_nan(self.to_dict()), allow_nan=False)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise PlanError(
                f"path must be a file that can be written, got {str(path)!r} ({error.strerror}). "
                "Make its folder first or choose another place."
            ) from error
        return path

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan that ``save`` wrote.

        Raises:
            PlanError: if the file cannot be read or holds something else.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(
                f"path must be a file that can be read, got {str(path)!r} ({error.strerror}). "
                "Give the path that Plan.save returned."
            ) from error
        # Neither bytes that are no text nor text that is no JSON.
        except ValueError as error:
            raise PlanError(
                f"{path} must hold a plan as JSON, got text that is not JSON ({error}). Save again."
            ) from error
        return Plan.from_dict(data)

    def __str__(self) -> str:
        lines = [f"plan ({self.scheme}): {len(self.assignments)} drawn, "
                 f"{len(self.untouched)} untouched", *self.choice]  # fmt: skip
        lines += [f"  {a.parameter} {list(a.shape)}: {describe(a.law)}" for a in self.assignments]
        lines += [f"  {u.parameter} {list(u.shape)}: untouched, {u.reason}" for u in self.untouched]
        return "\n".join([*lines, *self.warnings, *self.notes])
