"""Every code that a rule builds stands in the table of codes, and every code is built."""

import ast
import fnmatch
from pathlib import Path

import equipoise
from equipoise.diagnose import CODES

ROOT = Path(equipoise.__file__).parent
PLACES = [
    *sorted((ROOT / "rules").glob("*.py")),
    ROOT / "diagnose.py",
    *(ROOT / "torch").glob("*.py"),
    *(ROOT / "training").glob("*.py"),
]
BUILDERS = ("Finding", "_said")


def pattern(argument):
    """A code as it is written, with * for what is filled in."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "*" for v in argument.values)
    return argument.value if isinstance(argument, ast.Constant) else None


def built():
    for path in PLACES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in BUILDERS:
                yield path.name, pattern(node.args[0])


def test_codes_and_rules_are_the_same():
    found = [(name, code) for name, code in built() if code is not None]
    assert len(found) > 20
    for name, code in found:
        assert fnmatch.filter(CODES, code), (name, code)
    for code in CODES:
        assert any(fnmatch.fnmatch(code, made) for _, made in found), code


def test_codes_are_words_with_hyphens_and_a_meaning():
    for code, meaning in CODES.items():
        assert code.replace("-", "").isalpha()
        assert code == code.lower()
        assert len(meaning.split()) > 3
