"""Every architecture of transformers, shrunken to run on a CPU within a second or two.

    python benchmarks/zoo.py                      # build and run all, half an hour on one core
    python benchmarks/zoo.py --only llama bert    # names that hold a word
    python benchmarks/zoo.py --report             # what is known, without a run

``build(name)`` gives one model with random weights and arguments for its forward. Nothing is
downloaded. transformers is needed by this benchmark alone (``pip install '.[bench]'``).

Each model is built in a process of its own with a time limit. Prints what failed and why, and
writes JSON after each; the same command goes on from there.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from one_call_report import plain
from rich.console import Console
from rich.progress import Progress
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from zoo_arguments import INPUTS, with_sounds
from zoo_inputs import candidates
from zoo_makers import Inputs, Layout
from zoo_processes import each
from zoo_repairs import with_tokens, with_width
from zoo_roles import ATTEMPTS
from zoo_sizes import shrink, tree
from zoo_special import ARGUMENTS, adapt

MOST_PARAMETERS = 16_000_000
MOST_REPAIRS = 6
# Imported once for all processes; modules of this folder are found by each of them.
PRELOAD = ["torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"]


class NotBuilt(Exception):
    """A model that cannot be built or run, with the stage and the reason."""


@dataclass(frozen=True)
class Built:
    """One model of the zoo.

    Attributes:
        name: its type in transformers.
        model: in evaluation mode, float32.
        inputs: keyword arguments of forward.
        attempt: number of the sizes that fitted.
        without: arguments that had to be left out.
    """

    name: str
    model: nn.Module
    inputs: Inputs
    attempt: int
    without: tuple[str, ...]


def names() -> list[str]:
    """All types that have a base model."""
    return list(MODEL_MAPPING_NAMES)


def quiet() -> None:
    """Silence transformers: tiny configurations break many a habit."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def build(name: str) -> Built:
    """One model and its arguments.

    Raises:
        NotBuilt: with the first line of the first error.
    """
    quiet()
    torch.set_num_threads(1)
    errors: list[NotBuilt] = []
    for attempt, sizes in enumerate(ATTEMPTS):
        try:
            config = configuration(name)
            shrink(config, sizes)
            adapt(name, config, sizes)
            for part in tree(config):
                part.__dict__.update({k: False for k in ("use_cache",) if k in part.__dict__})
            model = instance(config)
        except NotBuilt as error:
            errors.append(error)
            continue
        try:
            inputs, without = arguments(name, model, config)
        except NotBuilt as error:
            errors.append(error)
            continue
        return Built(name, model, inputs, attempt, without)
    # A missing package or file is no matter of sizes; else what came furthest says most.
    raise max(errors, key=lambda e: str(e).startswith("forward"))


def reasoned(stage: str, call: Callable[[], Any]) -> Any:
    """What a call returns; whatever it raises is a reason why a model is not built."""
    try:
        return call()
    # Code of 605 models may raise anything.
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise NotBuilt(f"{stage}: {type(error).__name__}: {lines[0] if lines else ''}") from error


def configuration(name: str) -> PreTrainedConfig:
    """The default configuration."""
    return reasoned("configuration", lambda: CONFIG_MAPPING[name](**ARGUMENTS.get(name, {})))


def instance(config: PreTrainedConfig) -> nn.Module:
    """A model with random weights, of at most ``MOST_PARAMETERS``."""

    def count() -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in AutoModel.from_config(config).parameters())

    try:
        size = count()
    # Some models compute with values while they are made.
    except Exception:
        size = 0
    if size > MOST_PARAMETERS:
        raise NotBuilt(f"size: {size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = reasoned("build", lambda: AutoModel.from_config(config, dtype=torch.float32))
    return model.eval()


def arguments(
    name: str, model: nn.Module, config: PreTrainedConfig
) -> tuple[Inputs, tuple[str, ...]]:
    """The fullest arguments with which forward runs, and what was left out."""
    first: NotBuilt | None = None
    for layout, inputs in (
        [(Layout(), INPUTS[name](model, config))] if name in INPUTS else candidates(model, config)
    ):
        inputs = with_sounds(name, inputs, config)
        for _ in range(MOST_REPAIRS):
            try:
                reasoned("forward", lambda i=inputs: forward(model, i))
                return inputs, tuple(sorted(layout.without))
            except NotBuilt as error:
                first = first or error
                cause = error.__cause__ or error
                mended = with_tokens(cause, inputs, model, config) or with_width(str(cause), inputs)
                if mended is None:
                    break
                inputs = mended
    raise first or NotBuilt("forward: no arguments")


def forward(model: nn.Module, inputs: Inputs) -> None:
    """One call without gradient, from the same random state each time."""
    torch.manual_seed(0)
    with torch.no_grad():
        model(**inputs)


def try_out(name: str) -> dict[str, Any]:
    """Whether one architecture builds and runs, as plain data."""
    begun = time.time()
    try:
        made = build(name)
    except NotBuilt as error:
        return {"reason": str(error), "seconds": time.time() - begun}
    return {
        "parameters": sum(p.numel() for p in made.model.parameters()),
        "attempt": made.attempt,
        "without": list(made.without),
        "arguments": {k: list(v.shape) if isinstance(v, torch.Tensor) else repr(v)[:60]
                      for k, v in made.inputs.items()},
        "seconds": time.time() - begun,
    }  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    """Results of an earlier run of the same version."""
    if not path.exists():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return data["results"] if data["transformers"] == transformers.__version__ else {}


def save(path: Path, results: dict[str, Any]) -> None:
    """Write everything, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    data = {"transformers": transformers.__version__, "results": results}
    draft.write_text(json.dumps(plain(data), indent=1, allow_nan=False), encoding="utf-8")
    draft.replace(path)


def kind_of_failure(reason: str) -> str:
    """The group that a reason belongs to."""
    if any(word in reason for word in ("requires", "ImportError", "No module", "install")):
        return "missing package"
    if any(word in reason for word in ("offline", "OSError", "huggingface", "connect")):
        return "needs a download"
    return reason.split(":")[0]


def show(console: Console, results: dict[str, Any], total: int) -> None:
    """How many run, and the reasons of the others."""
    failed = {n: r.get("reason") or r.get("died", "") for n, r in results.items()
              if "parameters" not in r}  # fmt: skip
    console.print(f"{len(results) - len(failed)} of {total} architectures build and run forward")
    for kind, count in Counter(map(kind_of_failure, failed.values())).most_common():
        console.print(f"  {count} {kind}")
    for name, reason in sorted(failed.items(), key=lambda item: kind_of_failure(item[1])):
        console.print(f"{name}: {reason[:220]}", markup=False, highlight=False, soft_wrap=True)


def chosen(words: list[str]) -> list[str]:
    """Names that hold a word, or are one that ends with ``$``; all where there are no words."""
    return [n for n in names() if not words
            or any(n == w[:-1] if w.endswith("$") else w in n for w in words)]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="*", default=[], help="names that hold a word, or are it: 'bert$'"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=60, help="time limit of each")
    parser.add_argument("--out", type=Path, default=Path("results/zoo.json"))
    parser.add_argument("--redo", action="store_true", help="forget results of those named")
    parser.add_argument("--failed", action="store_true", help="try again those that failed")
    parser.add_argument("--report", action="store_true", help="only show what is known")
    options = parser.parse_args()
    console = Console(width=118)
    results, wanted = load(options.out), chosen(options.only)
    todo = [n for n in wanted if n not in results or options.redo
            or (options.failed and "parameters" not in results[n])]  # fmt: skip
    if not options.report:
        with Progress(console=console) as bar:
            line = bar.add_task("", total=len(todo))

            def done(name: str, result: dict[str, Any]) -> None:
                results[name] = result
                save(options.out, results)
                bar.update(line, advance=1, description=name[:30].ljust(30))

            each(todo, try_out, options.jobs, options.seconds, done, PRELOAD)
    show(console, {n: results[n] for n in wanted if n in results}, len(wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
