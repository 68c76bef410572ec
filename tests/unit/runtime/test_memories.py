"""Pieces that remember: the same bits whatever happens to the processes, and no other code names their state."""

import pytest
import torch

from byzdist.rounds import ClientMemories
from byzdist.storage.checkpoint import file_name, read_checkpoint
from tests.support.cases import case
from tests.support.harness import comparable
from tests.support.inprocess import train_in
from tests.support.runs import drop_after
from tests.unit.runtime.test_resume import saved

CASES = {
    "compressor": case("none", {"name": "tests.support.pieces:ErrorFeedback", "count": 5}),
    "compressor and method": case(
        "ipm", {"name": "tests.support.pieces:ErrorFeedback", "count": 5}, name="momentum_sgd", clip="none"
    ),
    "bank": case("none", name="sgd", clip="none") | {},
    "attack": case("none") | {"attack": "tests.support.pieces:drifting"},
    "rule": case("none") | {"aggregation": {"rule": "tests.support.pieces:smoothed"}},
}
CASES["bank"]["method"]["name"] = "tests.support.pieces:Bank"
STATE = {  # what of a round's files is there for whom: of the server's, and of a worker's
    "compressor": ({"decoder.compressor.sum"}, {"compressor.error"}),
    "compressor and method": ({"decoder.compressor.sum"}, {"compressor.error", "method.momentum"}),
    "bank": ({"method.bank"}, None),
    "attack": (set(), {"attack.sum"}),
    "rule": ({"rule.before"}, None),
}


@pytest.mark.parametrize("piece", CASES)
def test_what_a_piece_remembers_is_saved_and_taken_up(tmp_path, piece):
    whole = train_in({**CASES[piece], "rounds": 14}, tmp_path / "whole")
    train_in(saved(CASES[piece], 14), tmp_path / "run")
    of_server, of_worker = STATE[piece]
    kept = read_checkpoint(tmp_path / "run" / "checkpoint" / file_name(14)).tensors.keys() - {"x", "g"}
    assert {key.rstrip("0123456789").rstrip(".") for key in kept} == of_server
    part = tmp_path / "run" / "checkpoint" / file_name(14, 1)
    assert part.exists() == (of_worker is not None)
    if of_worker is not None:
        assert {key.rpartition(".")[0] for key in read_checkpoint(part).tensors} == of_worker
    for round_, workers in ((9, 2), (4, 5)):
        drop_after(tmp_path / "run", round_)
        assert torch.equal(whole, train_in(saved(CASES[piece], 14), tmp_path / "run", workers, resume=True))
        drop = ("bytes_down",) if workers == 5 else ()
        assert comparable(tmp_path / "run", drop) == comparable(tmp_path / "whole", drop)


def test_values_that_are_not_finite_leave_no_trace_in_what_the_server_remembers(tmp_path):
    """A Byzantine client sends NaN for a while; the sum of what it sent is that of its finite messages."""
    attack = [{"name": "nan", "rounds": [2, 6]}, "none"]
    config = {**CASES["compressor"], "rounds": 14, "attack": attack, "transport": {"name": "star", "offences": 10**6}}
    train_in(config | {"checkpoint": {"every": 1, "keep": 100}}, tmp_path / "run")
    tensors = read_checkpoint(tmp_path / "run" / "checkpoint" / file_name(14)).tensors
    assert any(key.startswith("decoder") and key.endswith(".8") for key in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_memories_are_apart_by_piece_and_client_and_those_of_others_are_lost():
    memories = ClientMemories(["method", "wire"])
    memories.of("method", 3)["a.b"] = torch.ones(2)
    memories.of("wire", 3)["a.b"] = torch.zeros(3)
    memories.of("compressor", 3)["a"] = torch.ones(1)
    assert memories.tensors().keys() == {"method.a.b.3", "wire.a.b.3"}
    assert memories.knows(3, ["method"]) and not memories.knows(4, ["method", "wire"])
    others = ClientMemories(["method", "wire"])
    others.restore(memories.tensors(), torch.device("cpu"))
    assert torch.equal(others.of("method", 3)["a.b"], torch.ones(2)) and others.of("method", 4) == {}
    assert others.of("method", 3)["a.b"] is not memories.of("method", 3)["a.b"]
