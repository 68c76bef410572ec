"""The same job with Flower. Its clients send weights, not gradients, and do not know each other, so each flips signs by itself."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedMedian
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), test_size=0.2, random_state=0)
X, X_test = (torch.tensor(part / 16, dtype=torch.float32) for part in (X, X_test))
y, y_test = torch.tensor(y), torch.tensor(y_test)


def net() -> nn.Module:
    """Return the model."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


client, server = ClientApp(), ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Take one step on a batch of the client's own samples; a Byzantine client steps in the opposite direction."""
    number = context.node_config["partition-id"]
    model = net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    mine = torch.arange(number, len(y), 20)
    batch = mine[torch.randint(len(mine), (32,))]
    loss = nn.functional.cross_entropy(model(X[batch]), y[batch])
    (loss if number < 15 else -1.5 * loss).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 32})}
    return Message(content=RecordDict(content), reply_to=message)


def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the test accuracy."""
    model = net()
    model.load_state_dict(arrays.to_torch_state_dict())
    return MetricRecord({"accuracy": float((model(X_test).argmax(1) == y_test).float().mean())})


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run 100 rounds."""
    torch.manual_seed(0)
    strategy = FedMedian(fraction_evaluate=0.0, min_train_nodes=20, min_available_nodes=20)
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(net().state_dict()), num_rounds=100, evaluate_fn=evaluate
    )
    print(result.evaluate_metrics_serverapp[100]["accuracy"])


run_simulation(server_app=server, client_app=client, num_supernodes=20)
