"""Losses in the manner of ``torch.nn.functional``, with a value for everything.

Names and arguments are torch's; ``F.cross_entropy`` becomes ``eq.losses.cross_entropy``. Where
torch's result is finite, values, gradients and second derivatives are torch's. Elsewhere:

======================================  ==========  =============  =============================
row (softmax and cross entropy)         ``softmax`` ``log_softmax`` ``cross_entropy``
======================================  ==========  =============  =============================
a logit of -inf, or under the mask      0           -inf           class without share; smoothing
                                                                   goes to the others
all logits -inf, or under the mask      0           -inf           0, not counted in the mean
target on an excluded class             -           -              inf
a logit of +inf                         nan         nan            nan
a logit of nan                          nan         nan            nan
a logit of nan or inf under the mask    0           -inf           as any under the mask
no row counts                           -           -              0
======================================  ==========  =============  =============================

======================================  ================================
entry (binary cross entropy)            value
======================================  ================================
+inf and target 1, -inf and target 0    0
+inf and target below 1                 inf
-inf and target above 0                 inf
nan, or a target of nan                 nan
under the mask                          0, not counted in the mean
no entry counts                         0
======================================  ================================

Gradients and second derivatives are finite in every row but those of nan. Of an excluded logit, of
rows that do not count and of those whose loss is inf they are 0: no finite step changes any of
these. An infinite loss stays infinite, in the mean too, for it says that data and mask contradict
each other. A weight of 0 takes such a row out. nan stays nan: a value that is nan or +inf by
mistake is never made to look sound. A row with nan that ``ignore_index`` leaves out has loss 0 and
gradient nan, as in torch.
"""

from equipoise.training.binary_cross_entropy import binary_cross_entropy_with_logits
from equipoise.training.cross_entropy import cross_entropy
from equipoise.training.masked_softmax import log_softmax, softmax

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "log_softmax", "softmax"]
