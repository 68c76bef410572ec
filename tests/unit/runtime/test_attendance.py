"""byzdist.runtime.attendance: what the log and the metrics say of clients that do not reply, or that have forgotten."""

import logging

import numpy as np
import torch

from byzdist.rounds import Payloads, Replies, Round
from byzdist.runtime.attendance import Attendance
from byzdist.runtime.decoding import NOT_FINITE

ALWAYS, NOTHING = {True: True, False: True}, {True: False, False: False}


def note(attendance, cohort, missing, afresh=(), full=False):
    replying = [client for client in cohort if client not in missing]
    payloads = Payloads(replying, torch.zeros(len(replying), 1, dtype=torch.uint8))
    round_ = Round(3, 1, full, np.array(cohort))
    return attendance.note(round_, Replies(payloads, missing, set(afresh), 0, 0), missing)


def test_a_client_is_named_when_it_stops_and_when_it_begins_again_and_in_no_round_between(caplog):
    attendance, said = Attendance(set, remember=NOTHING), []
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
    note(Attendance(set, remember=NOTHING), list(range(23)), dict.fromkeys(range(23), "late"))
    (message,) = caplog.messages
    assert message == f"no reply from client {', '.join(map(str, range(20)))} and 3 more: late"


def test_a_memory_is_lost_only_where_there_was_one():
    attendance = Attendance(set, remember=ALWAYS)
    assert note(attendance, [1, 2], {2: "late"}, afresh=[1]) == []
    assert note(attendance, [1, 2], {}, afresh=[1, 2]) == ["client 1 lost what it remembered and starts afresh"]
    assert attendance.state() == {"known": [1, 2], "stale": []}
    again = Attendance(set, remember=ALWAYS)
    again.resume(attendance.state())
    assert note(again, [2, 3], {}, afresh=[2, 3]) == ["client 2 lost what it remembered and starts afresh"]


def test_whoever_was_asked_and_not_heard_starts_afresh_when_asked_again():
    attendance, lost = Attendance(set, remember=ALWAYS), Replies(Payloads([], torch.zeros(0, 1)), {}, {3}, 0, 0)
    asked = [Round(k, 1, cohort=np.array(cohort)) for k, cohort in enumerate(([1, 2, 3], [1, 2], [1, 2, 3]))]
    assert attendance.ask(asked[0]) == set() and attendance.note_taken(frozenset(), lost, [1]) == []
    assert attendance.ask(asked[1]) == {2}  # not 1, whose message was taken
    again = Attendance(set, remember=ALWAYS)
    again.resume(attendance.state())  # in the middle of a round: nobody's message is taken
    assert again.ask(asked[2]) == {1, 2, 3}
    assert again.note_taken(frozenset({1, 2, 3}), lost, [1, 3]) == [
        "client 1 starts afresh, because the server did not take its last message"  # 3 says that it remembers nothing
    ]
    assert again.ask(asked[0]) == {2}


def test_who_remembers_only_sampled_rounds_loses_nothing_of_a_full_one():
    attendance, lost = (
        Attendance(set, {True: False, False: True}),
        ["client 1 lost what it remembered and starts afresh"],
    )
    for full, afresh, events in (
        (True, [1], []),
        (True, [1], []),
        (False, [1], []),
        (True, [], []),
        (True, [1], lost),
        (True, [1], []),  # once is enough
        (False, [1], []),
        (False, [1], lost),
    ):
        assert note(attendance, [1], {}, afresh, full) == events


def test_where_nobody_remembers_anything_nobody_loses_it():
    attendance = Attendance(set, remember=NOTHING)
    assert note(attendance, [1], {}, afresh=[1]) == note(attendance, [1], {}, afresh=[1]) == []


def test_exposed_are_those_in_quarantine_or_not_finite_that_do_not_reply():
    attendance = Attendance(lambda: {3, 5}, remember=NOTHING)
    assert attendance.exposed([1, 2], {}) == 2
    assert attendance.exposed([1, 3], {4: NOT_FINITE, 6: "late"}) == 2
    assert attendance.exposed([], {5: NOT_FINITE}) == 2
