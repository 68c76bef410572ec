"""A small network learns digits; five of twenty clients send reversed gradients; 100 rounds with a coordinate-wise median."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import byzdist

X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), test_size=0.2, random_state=0)
torch.manual_seed(0)
run = byzdist.train(
    nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    ((X / 16, y), (X_test / 16, y_test)),
    rounds=100,
    clients=20,
    byzantine=5,
    method=byzdist.sgd(step_size=0.5, cohort=20, batch_size=32),
    rule="coordinate_median",
    attack="ipm",
    split="iid",
)
print(run.summary["accuracy"])
