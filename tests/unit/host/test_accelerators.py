"""Which device a rank uses, and where its messages lie; GPUs are counted by torch, which sees as many as a test says."""

import pytest
import torch

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.host.accelerators import choose_device, count, link_device, use
from tests.support.cases import BASE


@pytest.fixture
def gpus(monkeypatch):
    def there_are(number):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return there_are


@pytest.mark.parametrize(
    "wanted, number, local_rank, expected",
    [
        ("cpu", 4, 1, "cpu"),
        ("auto", 0, 1, "cpu"),
        ("auto", 4, 1, "cuda:1"),
        ("auto", 4, 6, "cuda:2"),
        ("cuda", 4, 3, "cuda:3"),
        ("cuda:2", 4, 0, "cuda:2"),
    ],
)
def test_the_device_of_a_rank(gpus, wanted, number, local_rank, expected):
    gpus(number)
    assert choose_device(wanted, local_rank) == torch.device(expected)


@pytest.mark.parametrize(
    "transport, wanted, ranks, expected",
    [
        ("collective", "auto", 4, "cuda:1"),
        ("collective", "cuda:1", 1, "cuda:1"),
        ("collective", "auto", 5, "cpu"),
        ("collective", "cuda:1", 2, "cpu"),  # both ranks use the same GPU
        ("star", "auto", 4, "cpu"),
    ],
)
def test_messages_of_a_gpu_lie_where_the_transport_sends_from(monkeypatch, gpus, transport, wanted, ranks, expected):
    gpus(4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert link_device(wanted, torch.device("cuda:1"), transport) == torch.device(expected)


def test_a_gpu_that_is_not_there_is_refused(gpus):
    gpus(2)
    parse({**BASE, "device": "cuda:1"})
    with pytest.raises(ConfigError, match="device: 'cuda:2' is wanted, but torch sees 2 GPUs"):
        parse({**BASE, "device": "cuda:2"})


def test_a_gpu_that_cannot_be_used_is_a_mistake_in_the_configuration():
    """A CPU build of torch fails as a driver does that does not fit."""
    with pytest.raises(ConfigError, match="device: cuda:0 cannot be used: .*device=cpu"):
        use(torch.device("cuda:0"))
    use(torch.device("cpu"))


def test_unknown_kinds_of_devices_are_not_there():
    assert count("gadget") == count("meta") == 0
