"""Errors of the library: each says what was wrong, what it must be, and what to do."""


class EquipoiseError(Exception):
    """Base of every error that equipoise raises on purpose."""


class ArgumentError(EquipoiseError, ValueError):
    """An argument has a value that the call cannot use."""


class TraceError(EquipoiseError):
    """A model could not be read, or its forward pass fails on the inputs given."""


class PlanError(EquipoiseError):
    """A plan cannot be carried out on this model."""


class WorkError(EquipoiseError):
    """A unit of work failed, or took its workers down; what others gave has been kept.

    Attributes:
        key: of the unit.
    """

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type["WorkError"], tuple[str, str]]:
        # What Exception does on its own passes the message alone.
        return type(self), (self.key, str(self))


class UnhealthyError(EquipoiseError):
    """Raised on request when a report holds a finding of severity 'error'."""


class NonFiniteError(EquipoiseError, ArithmeticError):
    """A number that is not finite did harm; raised on request while a model trains.

    Attributes:
        result: what made it, where and why.
    """

    def __init__(self, message: str, result: object):
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type["NonFiniteError"], tuple[str, object]]:
        # What Exception does on its own passes the message alone.
        return type(self), (str(self), self.result)


class EquipoiseWarning(UserWarning):
    """Something a caller should know that does not stop the call."""


def in_words(error: BaseException) -> str:
    """An error of the caller's code by its kind and the first line of its text.

    >>> in_words(KeyError("a"))
    "KeyError: 'a'"
    """
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
