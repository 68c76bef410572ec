"""scikit-learn's diabetes data."""

import numpy as np

from byzdist.problem.data.base import DATASETS, RawData


@DATASETS.register("diabetes")
def diabetes() -> RawData:
    """Progression of diabetes a year later in 442 patients, for regression: 10 features and the target, all standardized."""
    from sklearn.datasets import load_diabetes  # slow to import: only the process that prepares the data needs it

    features, targets = load_diabetes(return_X_y=True)
    return RawData(np.asarray(features) * len(targets) ** 0.5, (targets - targets.mean()) / targets.std())


diabetes.task = "regression"  # type: ignore[attr-defined]
