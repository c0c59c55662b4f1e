"""Replay: Poisson's equation in one dimension over the depth of tanh networks."""

from equipoise.lab.equation_replay import Study, made

STUDY = Study(
    equations=("Poisson",),
    width=16,
    depths={"quick": (10, 50), "paper": (10, 20, 30, 40, 50)},
    inside={"quick": 200, "paper": 2_000},
    on_edge={"quick": 1, "paper": 1},
    weight=10.0,
    published={},
)
REPLAY = made(
    "poisson",
    "Poisson's equation in one dimension over depth",
    "Lee, Choi and Kim 2024, arXiv 2410.02242 and 2509.23085",
    "deep tanh networks on u'' = q; which q the sources took was not available, here u is two "
    "periods of a sine.",
    STUDY,
    {"quick": 10, "paper": 3},
)
