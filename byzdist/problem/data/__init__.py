"""Data sets and how they are shared out among clients.

A new data set is one file here: a function with ``@DATASETS.register("name")`` that returns a RawData or, for samples that are
read lazily, a torch Dataset of map style, (train, test) of them, a DataLoader, or a Lazy.
"""

from byzdist.problem.data.base import DATASETS, OURS, Dataset, RawData
from byzdist.problem.data.lazy import Lazy, LazyDataset, Prepared
from byzdist.problem.data.prepare import fingerprint, load
from byzdist.problem.data.splits import SPLITS, Split, check_split, split, warn_of_rare_classes, write_table
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = [
    "DATASETS",
    "OURS",
    "SPLITS",
    "Dataset",
    "Lazy",
    "LazyDataset",
    "Prepared",
    "RawData",
    "Split",
    "check_split",
    "fingerprint",
    "load",
    "split",
    "warn_of_rare_classes",
    "write_table",
]
