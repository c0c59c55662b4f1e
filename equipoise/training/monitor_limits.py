"""What a monitor calls a finding: every threshold, with its reason.

Chosen on the healthy runs of ``benchmarks/monitor_healthy.py`` (ten dense, convolutional, recurrent
and transformer networks, five optimizers, 150 steps), of which the extremes stand below, and on the
troubles of ``tests/training/test_monitor_findings.py``, which must each raise theirs. Where
a rule of the diagnosis at birth has a threshold (half of the entries flat, a factor of 1,000 on the
way through the network, a quarter of the units alike), that one counts; it stands in
``equipoise.rules``.
"""

# A layer that is dead, flat, or out of reach of the gradient in one batch may be so by chance, or
# because of that batch; what lasts through as many readings is the layer's own.
PERSISTS = 3

# A unit is dead if it gave 0 on every row of so many looks in a row: in one batch of 64 rows, units
# that speak on few rows are silent as well. A layer of which no unit speaks is dead at once.
SILENT_LOOKS = 6
# Share of the units of a layer that are dead. ReLU networks of torch's own draw have up to 0.6 in
# their last layers, where biases rule, and train all the same.
DEAD = 0.8

# Share by which the dead units of a layer have grown since the first readings. In healthy runs of
# ReLU networks with Adam at 5e-3 it grows by up to 0.33.
DYING_RISE = 0.45

# Update over weights in one step, of one weight. 1e-3 is common; the largest of any layer in
# healthy runs is 0.12. A step of a third of the weight that comes again and again leaves nothing of
# what was learned.
LARGE_UPDATE, LARGE_UPDATES = 0.3, 4

# A signal or a norm of weights that is so many times what it was in the first readings. In healthy
# runs signals change by up to 15 times and weights by up to 2.7; layers that start at 0 are
# compared from the time on at which they have moved.
DRIFT = 30.0
DRIFT_READINGS = 5
# A trend is one if it is so many of its standard errors from none.
DRIFT_ERRORS = 3.0

# Slope along an update after the step, over that before it with its sign turned. Gradient descent
# on a quadratic makes it rate * sharpness - 1: 1 at the edge of stability (arXiv 2103.00065). The
# noise of a batch that is drawn anew pulls it to 0 from below, and never above it on average.
EDGE, EDGE_READINGS = 0.3, 32
# So many standard errors: noise alone turns a single step round as often as not.
EDGE_ERRORS = 6.0

# Logits of attention, and entropy over the log of the number of keys: in healthy runs at most 9.5
# and at least 0.32. arXiv 2303.06296 calls what follows a fall of the second entropy collapse; a
# logit 30 above the others leaves them nothing in any precision.
LOUD_LOGIT, LOW_ENTROPY = 30.0, 0.05

# Share of the range of float16 that may be used before a word is said: the rest is one factor 4.
HEADROOM = 0.25
# Steps in a row in which a loss scale may overflow; each halves it.
SCALER_STEPS = 10

# Spikes of gradients and inputs are judged as those of updates are (``guard_spikes.Spikes``):
# 8 robust standard deviations and 3 times the median, after 20 steps.
# A loss counts as one only above the median of the first: where a model fits nearly everything,
# losses have heavy tails that mean nothing.
FIRST_LOSSES = 10
# Trouble that came with one batch is over after so many steps; what stays is no batch.
PASSES = 3

# Steps in a row without movement before a parameter is called frozen; an expert of many may
# well rest for some. A parameter is only judged while others move.
STILL = 8
# A gradient below this share of all is lost in rounding, such as that of a bias in front of a norm.
LEAST_GRADIENT = 1e-5

# Weights as they were initialized and weights before the first step differ by rounding at most.
SAME = 1e-2

# Readings between looks at whether units repeat each other: equal units never part, so that there
# is no haste.
TWIN_EVERY = 16
# The same finding at the same place is said again after so many readings without it.
AGAIN = 50
