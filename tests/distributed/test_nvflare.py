"""The aggregator for NVFlare, with NVFlare's own models and its own conversion of them for workflows."""

import numpy as np
import pytest

from byzdist.aggregation import aggregate
from byzdist.errors import ConfigError

pytest.importorskip("nvflare", reason="NVFlare is not installed; it brings a web server and a container client")

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from byzdist.integrations.nvflare import RobustAggregator


def model(w, kind=ParamsType.DIFF, **more):
    return FLModel(params_type=kind, params={"w": np.asarray(w, np.float32), **more})


def rows():
    return np.random.default_rng(0).normal(1.0, 1.0, (7, 3, 4)).astype(np.float32)


def test_a_round_is_what_the_rule_makes_of_the_replies():
    aggregator, context = RobustAggregator("trimmed_mean", f=2, pre=["nnm"]), FLContext()
    for _ in range(2):
        for row in rows():
            assert aggregator.accept(FLModelUtils.to_shareable(model(row)), context)
        result = FLModelUtils.from_shareable(aggregator.aggregate(context))
        aggregator.reset(context)
        assert result.params_type == ParamsType.DIFF
        expected = aggregate(list(rows()), "trimmed_mean", pre=["nnm"], f=2)
        assert np.array_equal(result.params["w"], expected)


def test_the_form_that_most_replies_have_counts():
    aggregator = RobustAggregator("coordinate_median", f=1)
    nonsense = FLModel(params_type=ParamsType.FULL, params={"w": "text"})
    for reply in (model([9.0]), model([1.0, 2.0], ParamsType.FULL), model([np.nan, 0.0]), nonsense):
        aggregator.accept_model(reply)
    for row in ([1.0, 1.0], [2.0, 2.0], [3.0, 3.0]):
        aggregator.accept_model(model(row))
    assert aggregator.aggregate_model().params["w"].tolist() == [2.0, 2.0]


def test_too_few_replies_and_mistakes_are_named():
    aggregator = RobustAggregator("coordinate_median", f=1)
    with pytest.raises(ConfigError, match="no reply is a dictionary of arrays"):
        aggregator.aggregate_model()
    aggregator.accept_model(model([1.0]))
    aggregator.accept_model(model([2.0]))
    with pytest.raises(ConfigError, match="nvflare.f: 2 replies of one form came, too few for f = 1"):
        aggregator.aggregate_model()
    with pytest.raises(ConfigError, match="nvflare.rule: unknown rule"):
        RobustAggregator("medean", f=1)
    with pytest.raises(ConfigError, match="nvflare.f: True"):
        RobustAggregator("mean", f=True)
