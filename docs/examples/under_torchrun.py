"""One script for all ranks: torchrun --master-addr 127.0.0.1 --master-port 29500 --nproc-per-node 5 under_torchrun.py.

On the server (rank 0) `byzdist.train` returns the run, on the workers None once the run has ended.
"""

from sklearn.datasets import load_digits
from torch import nn

import byzdist

features, labels = load_digits(return_X_y=True)
run = byzdist.train(
    lambda: nn.Linear(64, 10),
    (features / 16, labels),
    rounds=200,
    clients=20,
    byzantine=5,
    method=byzdist.byz_vr_marina_pp(step_size=0.3, cohort=4, p=0.2, clip=1.0),
    rule="coordinate_median",
    attack="ipm",
    on_round=lambda record: record.evaluation.get("accuracy", 0.0) > 0.9,  # good enough: end the run
    evaluate=20,
)
if run is not None:
    print(run)
