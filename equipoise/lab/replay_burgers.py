"""Replay: Burgers' equation by deep tanh networks of width 16."""

import math

from equipoise.lab.equation_replay import Study, made

STUDY = Study(
    equations=("Burgers", "Burgers, drift 0.3", "diffusion"),
    width=16,
    depths={"quick": (30,), "paper": (30, 10, 50)},
    inside={"quick": 500, "paper": 20_000},
    on_edge={"quick": 40, "paper": 500},
    weight=3.0,
    published={
        (30, "Xavier"): math.log10(6.16e-3), (30, "diagonal + noise"): math.log10(7.78e-4)
    },
)  # fmt: skip
REPLAY = made(
    "burgers",
    "Burgers' equation, a front and diffusion by 30 layers of 16 units",
    "Lee, Choi and Kim 2024, arXiv 2410.02242",
    "30 tanh layers of 16, inputs unscaled, 20,000 points inside, 500 at the start and 500 on each "
    "wall; 300 steps of Adam at .001, then 300 iterations of L-BFGS-B with 50 corrections; one "
    "run: 7.78e-4 from diagonal + noise, 6.16e-3 from Xavier.",
    STUDY,
    {"quick": 10, "paper": 3},
)
