"""Reading ahead gives the same batches, whatever was announced; a helper process that fails or dies is reported."""

import os
import signal
import time
from collections import OrderedDict

import pytest
import torch

from byzdist.errors import RunError
from byzdist.problem.data.ahead import ReadAhead, ReadJob, check_form

HERE = os.getpid()


def job(number, size=2):
    return ReadJob(0, [number] * size, [number, 0, 0], f"client {number}")


def read(wanted):
    """Replace a reader: sleep for hundredths of a second if there is a second seed."""
    if wanted.indices == [13, 13]:
        raise RunError("no sample 13")
    time.sleep(wanted.seeds[1] / 100)
    return torch.full((2, 3), wanted.seeds[0], dtype=torch.int64), torch.tensor([os.getpid()])


def seeds(found):
    return [int(batch[0][0, 0]) for _, batch in found]


@pytest.fixture(params=[1, 2])
def ahead(request):
    made = ReadAhead(read, request.param)
    yield made
    made.close()


def children():
    return [int(pid) for pid in open(f"/proc/{HERE}/task/{HERE}/children").read().split()]


def test_batches_come_in_order_and_from_elsewhere(ahead):
    found = list(ahead.batches(map(job, range(9))))
    assert seeds(found) == list(range(9)) and [wanted for wanted, _ in found] == list(map(job, range(9)))
    assert all(int(batch[1]) != HERE for _, batch in found)


@pytest.mark.parametrize("guess", [[], [3, 4], [3, 9, 4], [9], [9, 9, 9, 3], [3, 4, 5, 6, 7]])
def test_a_wrong_guess_costs_time_alone(ahead, guess):
    ahead.expect(map(job, guess))
    ahead.expect(map(job, guess[:2]))
    assert seeds(ahead.batches(map(job, [3, 4]))) == [3, 4]
    assert seeds(ahead.batches(map(job, [5]))) == [5]
    first = ahead.batches(map(job, [6, 7, 8]))
    next(first)
    assert seeds(ahead.batches(map(job, [8, 7]))) == [8, 7]


def test_what_was_expected_has_been_read_meanwhile(ahead):
    slow = [ReadJob(0, [1], [1, 20, 0], ""), ReadJob(0, [2], [2, 0, 0], "")]
    ahead.expect(slow)
    time.sleep(0.25)
    start = time.perf_counter()
    assert seeds(ahead.batches(slow)) == [1, 2]
    assert time.perf_counter() - start < 0.15


def test_an_error_comes_with_its_batch_and_the_process_goes_on(ahead):
    ahead.expect(map(job, [12, 13, 14]))
    assert seeds(ahead.batches([job(12)])) == [12]
    with pytest.raises(RunError, match="^no sample 13$"):
        list(ahead.batches([job(13)]))
    assert seeds(ahead.batches([job(14)])) == [14]


def test_a_process_that_is_killed_is_named(ahead):
    victims = children()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RunError, match=r"\(data.workers\) was ended by SIGKILL while it read a batch for client 3"):
            list(ahead.batches([job(3)]))


def test_signals_that_end_a_round_first_leave_them_alone(ahead):
    for pid in children():
        os.kill(pid, signal.SIGTERM)
    assert seeds(ahead.batches([job(3)])) == [3]


def test_none_is_left_when_nobody_holds_them():
    before = children()
    made = ReadAhead(read, 2)
    assert len(children()) == len(before) + 2
    made.expect(map(job, [1, 2, 3]))
    del made
    assert children() == before


FORMS = [
    torch.arange(6.0).reshape(2, 3).to(torch.bfloat16),
    torch.tensor([True, False]),
    torch.zeros(0, 4),
    torch.tensor(2.5, dtype=torch.float64),
    torch.arange(6).reshape(2, 3).t(),
    (torch.arange(3), [torch.ones(2), None]),
    {"ids": torch.arange(3), "more": ({"text": "tüte"}, 3, 2.5, True)},
    [],
]


@pytest.mark.parametrize("batch", FORMS, ids=range(len(FORMS)))
def test_a_batch_arrives_as_it_was(batch):
    made = ReadAhead(lambda wanted: batch, 1)
    [(_, found)] = made.batches([job(0)])
    made.close()
    assert repr(found) == repr(batch) and alike(found, batch)


def alike(found, batch):
    if isinstance(batch, torch.Tensor):
        return found.dtype == batch.dtype and found.shape == batch.shape and torch.equal(found, batch)
    if isinstance(batch, dict):
        return all(alike(found[key], batch[key]) for key in batch)
    if isinstance(batch, tuple | list):
        return type(found) is type(batch) and all(map(alike, found, batch))
    return found == batch


def test_large_batches_do_not_block_each_other():
    large = torch.arange(2.0**21)
    made = ReadAhead(lambda wanted: large + wanted.seeds[0], 2)
    wanted = [ReadJob(0, list(range(200_000)), [number, 0, 0], "") for number in range(4)]
    found = [batch for _, batch in made.batches(wanted)]
    made.close()
    assert all(torch.equal(batch, large + number) for number, batch in enumerate(found))


@pytest.mark.parametrize("part", [object(), float("nan"), {1: torch.ones(2)}, torch.Size([1])])
def test_what_cannot_travel_is_refused(part):
    with pytest.raises(RunError, match="data.workers: a batch has a"):
        check_form((torch.ones(2), [part]))
    check_form(OrderedDict(a=torch.ones(2)))
