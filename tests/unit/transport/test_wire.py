import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byzdist.transport.reply_rows import ReplyRows
from byzdist.transport.wire import (
    HAS_MODEL,
    HAS_PREVIOUS,
    HEADER_BYTES,
    MANY_IDS,
    Header,
    Kind,
    RequestFrame,
    WireError,
    check_reply,
    checksum,
    round_up,
)

CPU = torch.device("cpu")
word32, word64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@given(st.sampled_from(Kind), word32, word32, word32, word64, word64)
def test_a_header_survives_the_wire(kind, round_, count, flags, length, total):
    header = Header(kind, round_, count, flags, length, total)
    message = torch.full((HEADER_BYTES,), 255, dtype=torch.uint8)
    header.write(message)
    assert Header.read(message) == header


@settings(max_examples=200)
@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_bytes_are_no_header(noise):
    with pytest.raises(WireError):
        Header.read(torch.frombuffer(bytearray(noise), dtype=torch.uint8))


@pytest.mark.parametrize(
    "byte, value, reason", [(0, 0, "no byzdist"), (2, 99, "no byzdist"), (3, 0, "kind"), (3, 77, "kind")]
)
def test_a_spoilt_header_is_refused(byte, value, reason):
    message = torch.zeros(HEADER_BYTES, dtype=torch.uint8)
    Header(Kind.REPLY, 1, 2).write(message)
    message[byte] = value
    with pytest.raises(WireError, match=reason):
        Header.read(message)


def reply(kind=Kind.REPLY, round_=7, client=3, length=24):
    row = ReplyRows.make(1, 24, CPU)[0]
    row.payload[:] = torch.arange(len(row.payload), dtype=torch.uint8)
    Header(kind, round_, client, 0, length, checksum(row.payload[:24])).write(row.message)
    return row


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"kind": Kind.FULL}, "a full message instead of a reply"),
        ({"round_": 6}, "reply to round 6"),
        ({"client": 4}, "reply of client 4"),
        ({"length": 16}, "wrong length: 16 bytes instead of 24"),
    ],
)
def test_a_reply_to_something_else_is_refused(changes, reason):
    row = reply()
    check_reply(row.message, checksum(row.payload[:24]), 7, 3, 24)
    row = reply(**changes)
    with pytest.raises(WireError, match=reason):
        check_reply(row.message, checksum(row.payload[:24]), 7, 3, 24)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 24, 1003])
def test_every_flipped_bit_of_a_payload_is_noticed(size):
    payload = torch.from_numpy(np.random.Generator(np.random.Philox(0)).integers(256, size=size).astype(np.uint8))
    total = checksum(payload)
    for byte in range(size):
        for bit in (1, 16, 128):
            payload[byte] ^= bit
            assert checksum(payload) != total
            payload[byte] ^= bit
    assert checksum(payload) == total


@given(st.binary(max_size=100))
def test_the_checksum_is_the_sum_of_the_words(content):
    padded = content + bytes(-len(content) % 8)
    words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
    assert checksum(torch.tensor(list(content), dtype=torch.uint8)) == sum(words) % 2**64


def test_a_payload_changed_on_the_way_is_refused():
    row = reply()
    row.payload[5] ^= 4
    with pytest.raises(WireError, match="wrong checksum"):
        check_reply(row.message, checksum(row.payload[:24]), 7, 3, 24)


@pytest.mark.parametrize("cohort, everyone", [([1, 5, 6], False), (list(range(31)), True)])
def test_a_request_says_who_starts_afresh(cohort, everyone):
    ours, theirs = (RequestFrame(11, 31, 31, torch.float64, CPU) for _ in range(2))
    for afresh, marked in (({5, 30}, {5, 30}.intersection(cohort)), ({2} - set(cohort), set()), ((), set())):
        (message,) = ours.pack(Kind.SAMPLED, 5, np.array(cohort), everyone=everyone, flags=0, afresh=afresh)
        theirs.buffer[: len(message)] = message
        header = Header.read(theirs.buffer)
        ids, told = theirs.cohort(header, 31)
        assert ids.tolist() == cohort and told == marked
        assert len(message) == HEADER_BYTES + (4 * len(cohort) if marked or not everyone else 0)


@pytest.mark.parametrize("flags, models", [(0, 0), (HAS_MODEL, 1), (HAS_MODEL | HAS_PREVIOUS, 2)])
@pytest.mark.parametrize("cohort, everyone", [([1, 5, 6], False), (list(range(31)), True), (list(range(1, 31)), False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_request_survives_the_wire(flags, models, cohort, everyone, dtype):
    few = 16  # 64 bytes
    ours, theirs = (RequestFrame(11, few, 30, dtype, CPU) for _ in range(2))
    ours.current.copy_(torch.arange(11))
    ours.previous.copy_(torch.arange(11) - 0.5)
    message, *apart = ours.pack(Kind.SAMPLED, 5, np.array(cohort), everyone=everyone, flags=flags)
    theirs.buffer[: len(message)] = message
    header = Header.read(theirs.buffer)
    assert len(apart) == (len(cohort) > few and not everyone)
    assert header == Header(Kind.SAMPLED, 5, len(cohort), flags | MANY_IDS * len(apart), len(message) - HEADER_BYTES)
    for sent, room in zip(apart, theirs.parts_apart(header.flags), strict=True):
        room[: len(sent)] = sent
    received, afresh = theirs.cohort(header, 31)
    assert received.tolist() == cohort and not afresh
    if models:
        assert torch.equal(theirs.current, ours.current)
    assert torch.equal(theirs.previous, ours.previous if models == 2 else torch.zeros(11, dtype=dtype))
    # The header and the ids are all that is sent beside the models: at most 64 bytes, and the room for the ids.
    ids = 0 if everyone or apart else 4 * len(cohort)
    assert len(message) == (HEADER_BYTES + ids if not models else HEADER_BYTES + 64 + models * 11 * dtype.itemsize)


@pytest.mark.parametrize("size, unit, expected", [(0, 64, 0), (1, 64, 64), (64, 64, 64), (65, 64, 128)])
def test_round_up(size, unit, expected):
    assert round_up(size, unit) == expected


@pytest.mark.parametrize(
    "chosen, copied",
    [([0, 1, 2, 3], False), ([0, 2], False), ([3], False), ([], False), ([0, 1, 3], True), ([2, 1], True)],
)
def test_payloads_at_equal_distances_are_a_matrix_without_a_copy(chosen, copied):
    rows = ReplyRows.make(4, 24, CPU)
    for i in range(4):
        rows[i].payload.view(torch.float64)[:3] = torch.tensor([i, 10.0 * i, -i])
    matrix = rows.payloads(chosen, 24).view(torch.float64)
    assert matrix.tolist() == [[i, 10.0 * i, -i] for i in chosen]
    assert (matrix.untyped_storage().data_ptr() != rows[0].payload.untyped_storage().data_ptr()) == copied
