"""Work for the tests of units: a module of its own, for other processes must import it."""

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path


def count(arguments):
    """Say that the unit was begun, and how often it has been."""
    folder = Path(arguments["folder"])
    begun = len(list(folder.glob(f"{arguments['name']}.*")))
    draft = folder / f".{arguments['name']}"
    draft.write_text(str(os.getpid()))
    draft.rename(folder / f"{arguments['name']}.{begun}")
    return begun


def until(holds, seconds=60):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_for(folder, pattern, seconds=60):
    """Wait for a file."""
    until(lambda: list(Path(folder).glob(pattern)), seconds)


def numbers(arguments):
    x = arguments["x"]
    return {
        "x": x,
        "root": math.sqrt(2) * x,
        "nan": math.nan,
        "ends": (math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2),
        "text": "σ²\u2028\ud800",
        "none": None,
    }


def place(arguments):
    time.sleep(arguments.get("seconds", 0))
    return {"process": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}


def counted(arguments):
    return count(arguments)


def dies(arguments):
    """Is killed the first ``deaths`` times."""
    begun = count(arguments)
    if begun < arguments["deaths"]:
        if "after" in arguments:
            wait_for(arguments["folder"], arguments["after"])
        os.kill(os.getpid(), signal.SIGKILL)
    return begun


def dies_with_a_child(arguments):
    """Is killed, and leaves a process behind that holds all its files open."""
    begun = count(arguments)
    if begun == 0:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        (Path(arguments["folder"]) / "child").write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
    return begun


def echoes(arguments, shared):
    return [arguments["text"], shared]


def dies_after_its_answer(arguments):
    """Unit 'large' leaves a child that holds its pipe, and dies once it has had time to answer."""
    begun = count(arguments)
    if arguments["name"] == "large" and begun == 0:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        (Path(arguments["folder"]) / "child").write_text(str(child))
        wait_for(arguments["folder"], "told")
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return [begun, "x" * 3_000_000]


def dies_after_another(arguments):
    """Unit 'second' dies while it works, once the process that did unit 'first' is gone."""
    begun = count(arguments)
    if arguments["name"] == "second" and begun == 0:
        wait_for(arguments["folder"], "first.0")
        pid = int((Path(arguments["folder"]) / "first.0").read_text())
        until(lambda: not is_alive(pid))
        os.kill(os.getpid(), signal.SIGKILL)
    return begun


def is_alive(pid):
    """Whether a process runs; one that nobody has waited for yet is listed, and does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def fails(arguments):
    """Unit 'bad' raises once the others are under way; they finish after it."""
    count(arguments)
    if arguments["name"] == "bad":
        wait_for(arguments["folder"], "good.0")
        (Path(arguments["folder"]) / "raised").touch()
        raise ArithmeticError("no number is that large")
    wait_for(arguments["folder"], "raised")
    time.sleep(1.0)
    return "good"


def leaves(arguments):
    sys.exit(3)


def gives_a_set(arguments):
    return {"found": {1}}


def slow(arguments):
    """Quick where ``seconds`` is 0, and at most a minute."""
    count(arguments)
    time.sleep(arguments["seconds"])
    return os.getpid()


def trained(arguments):
    """Weights of a small network after some steps: any difference in arithmetic would show."""
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(arguments["seed"])
    weight = torch.randn(8, 8, generator=generator) / 8**0.5
    x = torch.randn(64, 8, generator=generator)
    weight.requires_grad_()
    for _ in range(5):
        (gradient,) = torch.autograd.grad((x @ weight).tanh().square().mean(), weight)
        weight = (weight - 0.1 * gradient).detach().requires_grad_()
    return weight.tolist()


def held(arguments):
    """Numbers, which come once there is a file ``go``; says which node and process work."""
    import ray

    folder = Path(arguments["folder"])
    node = ray.get_runtime_context().get_node_id()
    draft = folder / f".{arguments['name']}"
    draft.write_text(str(os.getpid()))
    draft.rename(folder / f"{arguments['name']}.on.{node}")
    # Longer than a node takes to start on a busy machine.
    wait_for(folder, "go", seconds=600)
    return trained(arguments)


def _main():
    """Run as a script: do units in processes until somebody ends it."""
    from equipoise.lab.work import run_units

    # What was started in the background of a script ignores Ctrl-C from birth.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(sys.argv[1])
    names = [("a", 0), ("b", 0), ("c", 60), ("d", 60)]
    units = {n: {"folder": str(folder), "name": n, "seconds": s} for n, s in names}
    run_units(slow, units, folder / "store", on="processes", jobs=2)


if __name__ == "__main__":
    _main()
