"""Replay: the Allen-Cahn equation over the depth of tanh networks."""

from equipoise.lab.equation_replay import Study, made

STUDY = Study(
    equations=("Allen-Cahn",),
    width=16,
    depths={"quick": (10, 60), "paper": (10, 20, 30, 40, 50, 60)},
    inside={"quick": 300, "paper": 20_000},
    on_edge={"quick": 30, "paper": 500},
    weight=100.0,
    published={},
)
REPLAY = made(
    "allen-cahn",
    "the Allen-Cahn equation over 10 to 60 layers",
    "Lee, Choi and Kim 2024, arXiv 2410.02242",
    "deep tanh networks, where Xavier's start fails from some depth on; which diffusivity the "
    "source took was not available, here it is .001 and u is -1 on both walls.",
    STUDY,
    {"quick": 10, "paper": 3},
)
