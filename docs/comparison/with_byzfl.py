"""The same job with ByzFL, which simulates the clients in one process."""

import byzfl.fed_framework.models as models
import torch
from byzfl import ByzantineClient, Client, Server
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Sequential):
    """The model."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


models.Net = Net  # ByzFL looks models up there, by their name
X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), test_size=0.2, random_state=0)
X, X_test = (torch.tensor(part / 16, dtype=torch.float32) for part in (X, X_test))
y, y_test = torch.tensor(y), torch.tensor(y_test)
torch.manual_seed(0)
common = {
    "model_name": "Net",
    "device": "cpu",
    "optimizer_name": "SGD",
    "optimizer_params": {},
    "learning_rate": 0.5,
    "weight_decay": 0.0,
    "milestones": [],
    "learning_rate_decay": 1.0,
}
clients = [
    Client(
        {
            **common,
            "loss_name": "CrossEntropyLoss",
            "LabelFlipping": False,
            "momentum": 0.0,
            "store_per_client_metrics": False,
            "nb_labels": 10,
            "training_dataloader": DataLoader(TensorDataset(X[i::15], y[i::15]), batch_size=32, shuffle=True),
        }
    )
    for i in range(15)
]
test = DataLoader(TensorDataset(X_test, y_test), batch_size=256)
server = Server(
    {
        **common,
        "test_loader": test,
        "validation_loader": None,
        "aggregator_info": {"name": "Median", "parameters": {}},
        "pre_agg_list": [],
    }
)
byzantine = ByzantineClient({"name": "InnerProductManipulation", "f": 5, "parameters": {"tau": 1.5}})
for _ in range(100):
    for client in clients:
        client.set_parameters(server.get_flat_parameters())
        client.compute_gradients()
    gradients = [client.get_flat_gradients_with_momentum() for client in clients]
    server.update_model_with_gradients(gradients + byzantine.apply_attack(gradients))
print(server.compute_test_accuracy())
