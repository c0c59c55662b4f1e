"""Replay: the Helmholtz equation on a square over the depth of tanh networks."""

from equipoise.lab.equation_replay import Study, made

STUDY = Study(
    equations=("Helmholtz",),
    width=16,
    depths={"quick": (10, 30), "paper": (10, 20, 30, 40, 50)},
    inside={"quick": 400, "paper": 10_000},
    on_edge={"quick": 30, "paper": 500},
    weight=100.0,
    published={},
)
REPLAY = made(
    "helmholtz",
    "the Helmholtz equation on a square over depth",
    "Wang, Teng and Perdikaris 2020, arXiv 2001.04536, for the test; Lee, Choi and Kim 2024, arXiv "
    "2410.02242, for the starts",
    "u_xx + u_yy + u = q on [-1, 1]^2 with u = sin(pi x) sin(4 pi y), whose residual starts "
    "thousands of times as large as what is missed at the sides.",
    STUDY,
    {"quick": 10, "paper": 3},
)
