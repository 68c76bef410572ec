"""The same job with NVFlare. It has no robust rule, so the median is defined here; its clients run with_nvflare_client.py."""

import torch
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from with_nvflare_client import Net


class Median(ModelAggregator):
    """The median of the weights, coordinate by coordinate."""

    def __init__(self) -> None:
        super().__init__()
        self.models = []

    def accept_model(self, model: FLModel) -> None:
        """Keep a client's weights."""
        self.models.append(model.params)

    def aggregate_model(self) -> FLModel:
        """Return their median."""
        stacked = {key: torch.stack([torch.as_tensor(params[key]) for params in self.models]) for key in self.models[0]}
        return FLModel(params={key: values.median(0).values.numpy() for key, values in stacked.items()})

    def reset_stats(self) -> None:
        """Drop the weights."""
        self.models = []


if __name__ == "__main__":
    recipe = FedAvgRecipe(
        name="digits",
        model=Net(),
        min_clients=20,
        num_rounds=100,
        train_script="with_nvflare_client.py",
        aggregator=Median(),
    )
    print(recipe.execute(SimEnv(num_clients=20)).get_result())
