"""What `import byzdist` offers."""

import byzdist
from byzdist.aggregation import aggregate
from byzdist.problem.data import Lazy
from byzdist.problem.modules import swap_norms
from byzdist.problem.task import Task


def test_what_is_offered_is_what_is_meant():
    offered = (byzdist.aggregate, byzdist.swap_norms, byzdist.Task, byzdist.Lazy)
    assert offered == (aggregate, swap_norms, Task, Lazy)
    assert {"aggregate", "Aggregator", "Lazy", "Metric", "Task", "swap_norms"} <= set(dir(byzdist))
    assert not hasattr(byzdist, "nothing")
