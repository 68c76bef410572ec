"""A plain script with its own model, rule and attack: python own_pieces.py [WORKERS]."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import byzdist


def net() -> nn.Module:
    """Two layers for images of 8 x 8."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def middle(vectors: torch.Tensor, f: int) -> torch.Tensor:
    """Average each coordinate's n values without the f lowest and the f highest; vectors are [n, d]."""
    f = min(f, (len(vectors) - 1) // 2)
    return vectors.sort(dim=0).values[f : len(vectors) - f].mean(dim=0)


def push(now: "byzdist.attacks.Context") -> torch.Tensor:
    """Send -3 times the honest message."""
    return now.honest.mul_(-3.0)


if __name__ == "__main__":
    features, labels = load_digits(return_X_y=True)
    run = byzdist.train(
        net,
        (features / 16, labels),
        rounds=300,
        clients=20,
        byzantine=5,
        method=byzdist.byz_vr_marina_pp(step_size=0.3, cohort=4, p=0.2, clip=1.0),
        rule=middle,
        attack=push,
        evaluate=100,
        workers=int(sys.argv[1]) if sys.argv[1:] else 0,
    )
    print(run)
