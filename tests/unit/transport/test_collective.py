import pytest
import torch
import torch.distributed as dist

from byzdist.errors import RunError
from byzdist.torch_private import HashStore
from byzdist.transport.collective.group import open_group


def test_a_group_that_does_not_come_together_is_no_endless_wait():
    store = HashStore()
    store.set("here/2", "")
    with pytest.raises(RunError, match=r"ranks \[1, 3\] did not come within 0.2 s"):
        open_group(store, 0, 4, torch.device("cpu"), joining=0.2)
    assert not dist.is_initialized()
