"""A Flower app with a robust rule on the server; clients 7, 8 and 9 of ten multiply their update by -10.

The run configuration's ``rule`` is one of byzdist's rules, or "average" for Flower's own, which fails to learn here.

Name `docs.examples.flower_app:server_app` and `...:client_app` as the app's components and `flwr run` it.
"""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits
from torch import nn

from byzdist.integrations.flower import RobustStrategy

CLIENTS, HOSTILE, SIGN_FLIP = 10, 3, -10.0
client_app, server_app = ClientApp(), ServerApp()
digits = load_digits()
images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
test, train = order[:300], order[300:]


def network() -> nn.Module:
    """Return a small network for handwritten digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@client_app.train()
def fit(message: Message, context: Context) -> Message:
    """Train on this client's samples; a hostile client then reverses its update."""
    client, net = int(context.node_config["partition-id"]), network()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    own, optimizer = train[client::CLIENTS], torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images[own]), labels[own])
        loss.backward()
        optimizer.step()
    after = net.state_dict()
    if client >= CLIENTS - HOSTILE:
        after = {name: before[name] + SIGN_FLIP * (value - before[name]) for name, value in after.items()}
    metrics = MetricRecord({"loss": loss.item(), "num-examples": len(own)})
    return Message(RecordDict({"arrays": ArrayRecord(after), "metrics": metrics}), reply_to=message)


def accuracy(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Measure the model on the server's own samples."""
    net = network()
    net.load_state_dict(arrays.to_torch_state_dict())
    with torch.no_grad():
        return MetricRecord({"accuracy": (net(images[test]).argmax(1) == labels[test]).double().mean().item()})


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for 20 rounds and print the accuracy."""
    rule = str(context.run_config.get("rule", "trimmed_mean"))
    strategy: FedAvg = FedAvg(fraction_evaluate=0.0)
    if rule != "average":
        strategy = RobustStrategy(rule, f=HOSTILE, clip=2.0, fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=20, evaluate_fn=accuracy)
    print(f"{rule}: accuracy {result.evaluate_metrics_serverapp[20]['accuracy']:.3f}")
