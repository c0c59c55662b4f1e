"""The public face of theory: documented, runnable, and free of any framework."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise import theory

ROOT = Path(theory.__file__).parent


def public_functions():
    """Each public function, method and property defined in theory, with its docstring."""
    for path in sorted(ROOT.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{path.stem}.{node.name}", node
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        yield f"{path.stem}.{node.name}.{inner.name}", inner


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_shows_an_example(name):
    assert ">>>" in (ast.get_docstring(FUNCTIONS[name]) or ""), name


def exported_functions():
    return [
        name
        for name in theory.__all__
        if inspect.isfunction(getattr(theory, name))
        and inspect.signature(getattr(theory, name)).parameters
    ]


@pytest.mark.parametrize("name", exported_functions())
def test_every_exported_function_says_what_it_takes_gives_and_refuses(name):
    text = inspect.getdoc(getattr(theory, name))
    parameters = [p.name for p in inspect.signature(getattr(theory, name)).parameters.values()]
    for section in ("Args:", "Returns:"):
        assert section in text, f"{name} lacks {section}"
    arguments = text.split("Args:")[1].split("Returns:")[0]
    missing = [p for p in parameters if p not in arguments]
    assert not missing, f"{name} does not describe {missing}"


def raises(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise):
            yield node


def test_every_refusal_is_of_our_own_kind():
    for path in ROOT.glob("*.py"):
        for node in raises(path):
            if node.exc is None:
                continue
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            assert isinstance(made, ast.Name), path
            assert made.id in ("ArgumentError", "AssertionError") or made.id.startswith("_"), path


def test_no_framework_is_imported():
    script = (
        "import sys\n"
        "from equipoise import theory\n"
        "import numpy as np\n"
        "act = theory.probe(lambda x: np.tanh(x) + 0.1 * x)\n"
        "theory.mean_field(act, 1.5)\n"
        "theory.log_gain(theory.activations.relu(), 16)\n"
        "frameworks = ('torch', 'jax', 'keras', 'tensorflow', 'sklearn')\n"
        "print([n for n in frameworks if n in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.stdout == "[]\n", out.stderr


def test_names_are_sorted_and_there():
    assert list(theory.__all__) == sorted(theory.__all__)
    for name in theory.__all__:
        assert hasattr(theory, name)
