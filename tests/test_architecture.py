"""The folders know only what lies to their left, and theory needs no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "equipoise"
# What each place may import, besides itself.
ALLOWED = {
    "errors": set(),
    "_checks": {"errors"},
    "_text": set(),
    "theory": {"errors", "_checks"},
    "schemes": {"errors", "_checks", "theory"},
    "plan": {"errors", "_checks", "_text", "theory", "schemes"},
    "drift": set(),
    "measurement": {"drift"},
    "rules": {"errors", "_checks", "theory", "schemes", "plan", "drift", "measurement"},
    "diagnose": {
        "errors", "_checks", "theory", "schemes", "plan", "drift", "measurement", "rules",
    },
    "report": {
        "errors", "_checks", "_text", "theory", "schemes", "plan", "drift", "measurement", "rules",
        "diagnose",
    },
    "training": {"errors", "_checks", "_text", "drift", "measurement", "rules", "diagnose"},
    "torch": {
        "errors", "_checks", "theory", "schemes", "plan", "drift", "measurement", "rules",
        "diagnose", "report", "training",
    },
    "lab": {
        "errors", "_checks", "_text", "theory", "schemes", "plan", "drift", "measurement", "rules",
        "diagnose", "report", "torch", "training",
    },
    "cli": {"errors", "_checks", "_text", "theory", "schemes", "report", "lab", "torch"},
    "__init__": {"errors", "plan", "diagnose"},
    "__main__": {"cli"},
}  # fmt: skip
FREE = ("theory", "schemes", "plan", "diagnose", "report")


def place(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "equipoise":
                names = [f"equipoise.{alias.name}" for alias in node.names]
        found.update(names)
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_go_one_way(path):
    here = place(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("equipoise.")}
    assert ours - {here} <= ALLOWED[here]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.name))
def test_only_three_places_import_torch_at_the_top(path):
    if place(path) in ("torch", "training", "lab"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [alias.name for n in top if isinstance(n, ast.Import) for alias in n.names]
    names += [n.module or "" for n in top if isinstance(n, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] == "torch"]


def test_the_left_side_runs_with_no_framework_installed():
    blocked = (
        "import sys\n"
        "for name in ('torch', 'jax', 'keras', 'sklearn'): sys.modules[name] = None\n"
        "import equipoise, equipoise.theory, equipoise.plan.make, equipoise.diagnose\n"
        "import equipoise.report.report, equipoise.report.html, equipoise.cli\n"
        "from equipoise.theory import balance, HiddenLayer, activations\n"
        "print(balance([HiddenLayer(16, activations.tanh())] * 10, 4, 4, 0.3).reached)\n"
    )
    out = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert out.stdout == "True\n", out.stderr


def test_pictures_are_imported_when_they_are_asked_for():
    asked = "import sys, equipoise.torch; print('plotly' in sys.modules, 'pandas' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert out.stdout == "False False\n", out.stderr


def test_no_file_has_outgrown_one_concept():
    long = {
        str(p.relative_to(ROOT)): n
        for p in ROOT.rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 350
    }
    assert not long
