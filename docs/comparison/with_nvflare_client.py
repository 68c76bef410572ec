"""A client of with_nvflare.py."""

import nvflare.client as flare
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


class Net(nn.Sequential):
    """The model."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def main() -> None:
    """Answer each round with the weights after one step; a Byzantine client steps in the opposite direction."""
    X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), test_size=0.2, random_state=0)
    X, X_test = (torch.tensor(part / 16, dtype=torch.float32) for part in (X, X_test))
    y, y_test = torch.tensor(y), torch.tensor(y_test)
    flare.init()
    number = int(flare.get_site_name().removeprefix("site-")) - 1
    mine = torch.arange(number, len(y), 20)
    while flare.is_running():
        model = Net()
        model.load_state_dict({key: torch.as_tensor(value) for key, value in flare.receive().params.items()})
        accuracy = float((model(X_test).argmax(1) == y_test).float().mean())
        batch = mine[torch.randint(len(mine), (32,))]
        loss = nn.functional.cross_entropy(model(X[batch]), y[batch])
        (loss if number < 15 else -1.5 * loss).backward()
        torch.optim.SGD(model.parameters(), lr=0.5).step()
        flare.send(flare.FLModel(params=model.state_dict(), metrics={"accuracy": accuracy}))


if __name__ == "__main__":
    main()
