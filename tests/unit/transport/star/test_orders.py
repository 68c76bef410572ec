"""Orders to resume and to save, without a process and with a clock of the test's own."""

from byzdist.transport.base import Save
from byzdist.transport.star.orders import Orders
from byzdist.transport.star.records import Command
from byzdist.transport.wire import HAS_MODEL, Kind, Stage
from tests.unit.transport.star.test_membership import members


def orders(workers=3):
    found = members(workers=workers)
    return found.workers, Orders(found.workers)


def test_those_who_held_the_model_get_it_again_and_everyone_is_told_where_clients_remember():
    workers, found = orders()
    workers[2].state = "has not joined yet"
    commands = found.resume(7, [1, 2], everyone=True)
    assert commands == {1: Command(0, Kind.RESUME, 7, flags=HAS_MODEL), 3: Command(0, Kind.RESUME, 7)}
    assert (workers[1].round, workers[3].round) == (7, -1) and found.is_anybody_busy()
    found.answered(1, 0), found.answered(3, 0)
    assert not found.is_anybody_busy()
    workers[2].state, workers[2].generation = "", 4
    assert found.greet(2) == Command(4, Kind.RESUME, 7), "who joins later is told as well"
    found.answered(2, 0)
    assert found.greet(2) is None and found.greet(1) is None, "once"


def test_only_those_who_held_the_model_are_told_where_nobody_remembers():
    workers, found = orders()
    assert found.resume(7, [3], everyone=False) == {3: Command(0, Kind.RESUME, 7, flags=HAS_MODEL)}
    assert found.greet(1) is None


def test_an_order_to_save_is_repeated_until_it_is_carried_out():
    workers, found = orders(workers=2)
    order = Save(9, 3)
    both = {rank: Command(0, Kind.SAVE, 9, 3) for rank in (1, 2)}
    assert found.save(order, until=20.0) == both and found.save(order, until=99.0) == {}, "both are busy"
    found.answered(1, Stage.WRITING), found.answered(2, Stage.SAVED)
    assert found.unsaved(19.0) == [1] and found.unsaved(21.0) == [], "the first order's time counts"
    assert found.save(order, until=99.0) == {1: both[1]}
    found.answered(1, Stage.SAVED)
    assert found.unsaved(19.0) == [] and found.end_save() == ({}, [])


def test_why_a_part_is_missing():
    workers, found = orders(workers=5)
    workers[5].state = "left: silent"
    found.save(Save(9, 3), until=20.0)
    found.answered(1, Stage.SAVED)
    found.answered(2, Stage.FAILED)
    found.forget(3, "it did not answer")
    assert found.unsaved(19.0) == [4]
    failures = {2: "saving failed, see its log", 3: "it did not answer", 4: "it takes too long"}
    assert found.end_save() == (failures, [2, 3, 4, 5]), "who was away has not failed"
    assert found.unsaved(19.0) == []


def test_an_answer_about_an_older_round_says_nothing_of_the_last_one():
    workers, found = orders(workers=1)
    found.save(Save(9, 3), until=20.0)
    assert found.save(Save(10, 3), until=30.0) == {}, "it is busy with the order before"
    found.answered(1, Stage.SAVED)
    assert found.unsaved(25.0) == [1] and found.save(Save(10, 3), until=30.0) == {1: Command(0, Kind.SAVE, 10, 3)}
