"""byzdist.runtime.attendance: what the log and the metrics say of clients that do not reply, or that have forgotten."""

import logging

import numpy as np
import torch

from byzdist.rounds import Payloads, Replies, Round
from byzdist.runtime.attendance import Attendance
from byzdist.runtime.decoding import NOT_FINITE


def note(attendance, cohort, missing, afresh=()):
    replying = [client for client in cohort if client not in missing]
    payloads = Payloads(replying, torch.zeros(len(replying), 1, dtype=torch.uint8))
    return attendance.note(Round(3, 1, cohort=np.array(cohort)), Replies(payloads, missing, set(afresh), 0, 0), missing)


def test_a_client_is_named_when_it_stops_and_when_it_begins_again_and_in_no_round_between(caplog):
    attendance, said = Attendance(set, remember=False), []
    with caplog.at_level(logging.INFO, logger="byzdist"):
        for cohort, missing in (
            ([1, 2, 4], {1: "late", 4: "late", 2: "gone"}),
            ([1, 3], {1: "late"}),
            ([3, 5], {}),
            ([1, 4], {4: "late"}),
        ):
            assert note(attendance, cohort, missing) == []
            said.append(caplog.messages.copy())
            caplog.clear()
    assert said == [
        ["no reply from client 1, 4: late", "no reply from client 2: gone"],
        [],
        [],
        ["client 1 replies again"],
    ]


def test_a_line_of_the_log_names_some_clients_and_counts_the_others(caplog):
    note(Attendance(set, remember=False), list(range(23)), dict.fromkeys(range(23), "late"))
    (message,) = caplog.messages
    assert message == f"no reply from client {', '.join(map(str, range(20)))} and 3 more: late"


def test_a_memory_is_lost_only_where_there_was_one():
    attendance = Attendance(set, remember=True)
    assert note(attendance, [1, 2], {2: "late"}, afresh=[1]) == []
    assert note(attendance, [1, 2], {}, afresh=[1, 2]) == ["client 1 lost what it remembered and starts afresh"]
    assert attendance.state() == {"known": [1, 2], "stale": []}
    again = Attendance(set, remember=True)
    again.resume(attendance.state())
    assert note(again, [2, 3], {}, afresh=[2, 3]) == ["client 2 lost what it remembered and starts afresh"]


def test_whoever_was_asked_and_not_heard_starts_afresh_when_asked_again():
    attendance, lost = Attendance(set, remember=True), Replies(Payloads([], torch.zeros(0, 1)), {}, {3}, 0, 0)
    asked = [Round(k, 1, cohort=np.array(cohort)) for k, cohort in enumerate(([1, 2, 3], [1, 2], [1, 2, 3]))]
    assert attendance.ask(asked[0]) == set() and attendance.note_taken(frozenset(), lost, [1]) == []
    assert attendance.ask(asked[1]) == {2}  # not 1, whose message was taken
    again = Attendance(set, remember=True)
    again.resume(attendance.state())  # in the middle of a round: nobody's message is taken
    assert again.ask(asked[2]) == {1, 2, 3}
    assert again.note_taken(frozenset({1, 2, 3}), lost, [1, 3]) == [
        "client 1 starts afresh, because the server did not take its last message"  # 3 says that it remembers nothing
    ]
    assert again.ask(asked[0]) == {2}


def test_where_nobody_remembers_anything_nobody_loses_it():
    attendance = Attendance(set, remember=False)
    assert note(attendance, [1], {}, afresh=[1]) == note(attendance, [1], {}, afresh=[1]) == []


def test_exposed_are_those_in_quarantine_or_not_finite_that_do_not_reply():
    attendance = Attendance(lambda: {3, 5}, remember=False)
    assert attendance.exposed([1, 2], {}) == 2
    assert attendance.exposed([1, 3], {4: NOT_FINITE, 6: "late"}) == 2
    assert attendance.exposed([], {5: NOT_FINITE}) == 2
