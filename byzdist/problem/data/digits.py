"""scikit-learn's small handwritten digits."""

import numpy as np

from byzdist.problem.data.base import DATASETS, RawData


@DATASETS.register("digits")
def digits() -> RawData:
    """Handwritten digits of 8 x 8 grey values, scaled to [0, 1]: 1,797 samples, 64 features, 10 classes."""
    from sklearn.datasets import load_digits  # slow to import: only the process that prepares the data needs it

    features, labels = load_digits(return_X_y=True)
    return RawData(np.asarray(features) / 16.0, labels)
