"""The models: what turns features into outputs. One per file; a new file is found here without being listed.

A model is a torch module made by ``name(feature_shape, classes, **parameters)``, ``classes`` being the number of outputs that the task
wants. Its forward maps features [b, *feature_shape] to logits [b, classes], or [b] or [b, 1] where one number is enough; a user's own
loss may use what it returns beside them, in a tuple or in an object with ``logits``. A user's own model, ``module.path:Name``, needs no
more; what it may declare, such as a regularizer or a loss, is in :mod:`byzdist.problem.modules`. Frozen parameters stay as they are, and
tied ones count once.
"""

from byzdist.problem.models.base import MODELS, build
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["MODELS", "build"]
