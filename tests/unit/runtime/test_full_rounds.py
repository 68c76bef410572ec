import json

import pytest

from byzdist.runtime.full_rounds import PATIENCE, FullRounds


def median(replies):
    return max(0, (replies - 1) // 2)


def full_rounds(declared=5, wanted=20, tolerates=median, **more):
    return FullRounds(declared, wanted, tolerates, **more)


@pytest.mark.parametrize("replies, trusted", [(20, True), (11, True), (10, False), (4, False), (1, False), (0, False)])
def test_all_that_are_declared_may_be_among_few_replies(replies, trusted):
    doubt = full_rounds().doubt(replies)
    assert (doubt is None) == trusted
    if doubt and replies >= 5:
        assert doubt == f"{replies} of 20 replies, tolerates {median(replies)} of 5"


def test_no_more_than_came_can_be_byzantine_and_none_where_none_is_declared():
    assert full_rounds().byzantine(3, 0) == 3 and full_rounds().byzantine(20, 0) == 5
    assert all(full_rounds(declared=0).doubt(replies) is None for replies in range(1, 21))
    assert full_rounds(declared=0).doubt(0) == "0 of 20 replies, transport.min_replies is 1"


def test_who_is_known_to_be_byzantine_and_gone_is_not_among_the_replies():
    nine = full_rounds(declared=9)
    assert nine.doubt(11) == "11 of 20 replies, tolerates 5 of 9"
    assert nine.doubt(11, exposed=4) is None and nine.byzantine(11, 4) == 5
    # More than are declared cannot all be Byzantine: then nothing is known of any.
    assert nine.byzantine(11, 9) == 0 and nine.byzantine(11, 10) == 9 and nine.doubt(11, exposed=10)


def test_a_breakdown_that_is_allowed_is_no_reason_for_doubt_but_too_few_replies_are():
    lax = full_rounds(allow_breakdown=True, min_replies=2)
    assert lax.doubt(2) is None and not lax.are_safe(2)
    assert lax.doubt(1) == "1 of 20 replies, transport.min_replies is 2"


def calls(rounds_, fail_at, last):
    """Return the rounds up to ``last`` in which a full round is called and fails, after one that failed of itself."""
    rounds_.fail(fail_at, "why")
    found = []
    for round_ in range(fail_at + 1, last + 1):
        if rounds_.called(round_) == "why":
            found.append(round_)
            rounds_.fail(round_, "why")
    return found


def test_a_full_round_that_fails_is_tried_again_with_ever_longer_pauses():
    rounds_ = full_rounds()
    assert calls(rounds_, 10, 200) == [11, 13, 17, 25, 41, 73, 105, 137, 169]
    rounds_.succeed(1.0)
    assert rounds_.called(10**6) is None
    assert calls(rounds_, 300, 310) == [301, 303, 307]


def test_one_for_which_there_are_too_few_clients_is_tried_in_the_next_round():
    rounds_ = full_rounds()
    for round_ in (7, 8, 9):
        rounds_.postpone(round_)
        assert rounds_.called(round_) is None and "too few" in rounds_.called(round_ + 1)
    rounds_.fail(20, "why")
    rounds_.postpone(21)
    assert rounds_.called(22) == "why"  # the first reason stays


def test_an_estimate_that_stays_above_what_the_last_full_round_gave_calls_one():
    rounds_ = full_rounds(growth=2.0)
    for round_ in range(50):
        rounds_.watch(round_, 1e9)  # before the first full round there is nothing to compare with
    rounds_.succeed(3.0)
    for round_ in range(50):
        rounds_.watch(round_, 6.1 if round_ % PATIENCE else 6.0)  # never 10 rounds on end
    rounds_.watch(50, 6.0)
    assert rounds_.called(51) is None
    for round_ in range(51, 51 + PATIENCE):
        assert rounds_.called(round_) is None
        rounds_.watch(round_, 6.1)
    assert rounds_.called(51 + PATIENCE) == "|g| is 6.1, and for 3 rounds was above 2 times the 3 of the last"
    rounds_.succeed(6.1)
    rounds_.watch(62, 6.1)
    assert rounds_.called(63) is None and rounds_.reference == 6.1


def test_without_a_bound_on_growth_nothing_is_watched():
    rounds_ = full_rounds()
    rounds_.succeed(1.0)
    for round_ in range(50):
        rounds_.watch(round_, 1e9)
    assert rounds_.called(50) is None


def test_the_state_is_json_and_all_there_is_to_remember():
    one, other = full_rounds(growth=2.0), full_rounds(growth=2.0)
    one.succeed(3.0)
    one.fail(8, "why")
    for round_ in range(10, 15):
        one.watch(round_, 7.0)
    other.resume(json.loads(json.dumps(one.state())))
    assert other.state() == one.state() and other.reference == 3.0
    for rounds_ in (one, other):
        rounds_.fail(15, "again")
        assert rounds_.called(16) is None and rounds_.called(17) == "again"
    other.resume({})  # what a checkpoint of an earlier version holds
    assert other.reference is None and other.called(10**6) is None
