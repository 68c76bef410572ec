"""scikit-learn's breast cancer data."""

from byzdist.problem.data.base import DATASETS, RawData


@DATASETS.register("breast_cancer")
def breast_cancer() -> RawData:
    """Breast cancer diagnoses, each feature standardized: 569 samples, 30 features, 2 classes."""
    from sklearn.datasets import load_breast_cancer  # slow to import: only the process that prepares the data needs it

    features, labels = load_breast_cancer(return_X_y=True)
    return RawData((features - features.mean(axis=0)) / features.std(axis=0), labels)
