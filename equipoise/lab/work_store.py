"""Results of units of work as files: whole or not at all, each with what it belongs to."""

import hashlib
import json
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.errors import ArgumentError

_PLAIN = "None, bool, int, float, str, list, tuple, or dict with text keys"


def exact_json(name: str, value: object, sort: bool = False) -> str:
    """JSON that gives back what went in; tuples come back as lists.

    Floats keep every bit. nan and infinities are the words that Python's json reads and writes
    (``NaN``, ``Infinity``), which strict readers refuse: a number is worth more here than they are.

    Args:
        name: of the value in an error.
        value: plain data.
        sort: whether two dicts that differ only in order give one text.

    Raises:
        ArgumentError: for what JSON cannot hold, or would hold as something else.

    >>> exact_json("result", {"loss": (0.1, float("nan"))})
    '{"loss": [0.1, NaN]}'
    """
    _check_plain(name, value)
    return json.dumps(value, sort_keys=sort)


def _check_plain(name: str, value: object) -> None:
    match value:
        case None | bool() | int() | float() | str():
            return
        case list() | tuple():
            for i, entry in enumerate(value):
                _check_plain(f"{name}[{i}]", entry)
        case dict():
            for key, entry in value.items():
                # json.dumps would turn 1 into "1" without a word.
                if not isinstance(key, str):
                    raise ArgumentError(
                        f"keys of {name} must be text, got {key!r}. Pass str of it."
                    )
                _check_plain(f"{name}[{key!r}]", entry)
        case _:
            raise ArgumentError(
                f"{name} must be plain data ({_PLAIN}), got {type(value).__name__}. "
                "Arrays and tensors have .item() and .tolist()."
            )


def _parts(key: str, work: str, version: str, arguments: dict[str, Any]) -> dict[str, str]:
    """What a result belongs to, part by part, as text: so nan equals nan."""
    given = {f"argument {n!r}": json.dumps(v, sort_keys=True) for n, v in arguments.items()}
    return {"key": repr(key), "work": work, "version": repr(version)} | given


@dataclass(frozen=True)
class Stored:
    """One unit's result as it is kept.

    Attributes:
        result: as JSON.
        seconds: that the work took.
    """

    result: str
    seconds: float


@dataclass(frozen=True)
class Store:
    """A folder of results of one piece of work.

    A file says in plain words which work and arguments its result belongs to. One that belongs to
    others is refused rather than replaced: it may be hours of somebody's work, and a caller who
    changed an argument can seldom want the old numbers gone without a word.

    Attributes:
        folder: made when needed.
        work: name of the work.
        version: of what the work computes.
    """

    folder: Path
    work: str
    version: str

    def path(self, key: str) -> Path:
        """File of a unit: readable, and another one for every key on any file system."""
        readable = re.sub(r"[^A-Za-z0-9._=+-]+", "_", key)[:80].strip("._")
        return self.folder / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"

    def read(self, key: str, arguments: str) -> Stored | None:
        """What is kept of a unit, or None.

        Args:
            key: of the unit.
            arguments: as sorted JSON.

        Raises:
            ArgumentError: for a file that cannot be read, or that belongs to other arguments or to
                other work.
        """
        path = self.path(key)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            kept = Stored(json.dumps(found["result"]), float(found["seconds"]))
            belongs = _parts(found["key"], found["work"], found["version"], found["arguments"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArgumentError(
                f"store must hold results as run_units writes them, got {path} "
                f"({type(error).__name__}: {error}). Move it away or pass another folder."
            ) from error
        wanted = _parts(key, self.work, self.version, json.loads(arguments))
        for part in dict.fromkeys([*wanted, *belongs]):
            asked, there = wanted.get(part, "absent"), belongs.get(part, "absent")
            if asked != there:
                raise ArgumentError(
                    f"store must hold results of the same work and arguments, got {path}, where "
                    f"{part} is {there}, not {asked}. Pass another folder, or move the file away "
                    "to have the unit run again."
                )
        return kept

    def write(self, key: str, arguments: str, kept: Stored) -> None:
        """Keep a result; a reader sees all of the file or none of it."""
        data = {
            "key": key,
            "work": self.work,
            "version": self.version,
            "arguments": json.loads(arguments),
            "seconds": kept.seconds,
            "result": json.loads(kept.result),
        }
        text = json.dumps(data, indent=1) + "\n"
        try:
            self._replace(self.path(key), text)
        except KeyboardInterrupt:
            # The interrupt must not cost what is finished.
            self._replace(self.path(key), text)
            raise

    def make_folder(self) -> None:
        """Make the folder.

        Raises:
            ArgumentError: where that cannot be.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                f"store must be a folder, got {self.folder} ({error}). Pass one that can be made."
            ) from error

    def _replace(self, path: Path, text: str) -> None:
        draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part")
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                # Else a machine that goes down could leave the name with nothing behind it.
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
