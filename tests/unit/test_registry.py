from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt

from byzdist.cli.list.catalogue import SECTIONS
from byzdist.errors import ConfigError
from byzdist.registry import Registry, Spec

THINGS = Registry("thing", "one", "two")


@THINGS.register("bolt")
def bolt(
    one: int,
    two: int,
    *,
    length: Annotated[int, Ge(1)],
    thread: Literal["fine", "coarse"] = "fine",
    price: Annotated[float, Gt(0)] | None = None,
    sizes: list[Annotated[int, Ge(0)]] | Literal["all"] = "all",
) -> None:
    """Hold two parts together.

    More about bolts.
    """


@THINGS.register("nut")
@dataclass(kw_only=True)
class Nut:
    """Hold a bolt."""

    width: int = 3

    def __init__(self, one, two, *, width: int = 3) -> None:
        self.width = width


def test_names_come_in_order_and_with_the_first_line_of_their_docstring():
    assert list(THINGS) == ["bolt", "nut"]
    assert THINGS.get("nut") is Nut
    assert [THINGS.describe(name) for name in THINGS] == ["Hold two parts together.", "Hold a bolt."]


def test_a_name_is_registered_once():
    with pytest.raises(AssertionError, match="'bolt' is registered twice"):
        THINGS.register("bolt")(bolt)


def test_an_alias_is_registered_once_and_hides_no_name():
    for words in (("screw", "bolt"), ("bolt", "screw"), ("nut", "nut")):
        with pytest.raises(AssertionError, match="is registered twice"):
            THINGS.register(*words)(bolt)
    assert "screw" not in THINGS


def test_parameters_come_back_complete():
    complete = {"length": 3, "thread": "fine", "price": None, "sizes": "all"}
    assert THINGS.check({"name": "bolt", "length": 3}, "box") == Spec("bolt", complete)
    given = Spec("bolt", {"length": 3, "price": 2, "sizes": [0, 1]})
    assert THINGS.check(given, "box").parameters["sizes"] == [0, 1]
    assert THINGS.check("nut", "box") == Spec("nut", {"width": 3})
    assert given == Spec("bolt", {"length": 3, "price": 2, "sizes": [0, 1]})


def test_what_has_been_checked_is_not_checked_again():
    checked = THINGS.check({"name": "bolt", "length": 3}, "box")
    assert THINGS.check(checked, "elsewhere") is checked
    assert not Spec.of("bolt").checked and checked.plus(length=4).parameters["length"] == 4


def test_a_spec_is_given_as_a_name_or_a_mapping_and_written_as_a_mapping():
    assert Spec.of("bolt") == Spec.of({"name": "bolt"}) == Spec.of(Spec("bolt"))
    inner = Spec("bolt", {"length": 3, "nut": Spec("nut", {"width": 1})})
    assert inner.plain() == {"name": "bolt", "length": 3, "nut": {"name": "nut", "width": 1}}
    assert inner.without("nut", "no such key") == Spec("bolt", {"length": 3}) == Spec.of({"length": 3, "name": "bolt"})
    assert len({inner, Spec("bolt", dict(inner.parameters))}) == 1


@pytest.mark.parametrize("nameless", [{}, {"length": 3}, {"name": 5}, {"name": None}])
def test_a_spec_without_a_name_is_refused(nameless):
    with pytest.raises(ConfigError, match=r"^box\.name: this key is required\. Known: bolt, nut\.$"):
        THINGS.check(nameless, "box")


def test_a_piece_is_built_of_its_parameters():
    assert THINGS.build({"name": "nut", "width": 5}, 1, 2, key="box").width == 5
    assert THINGS.bind("nut", "box")(1, 2).width == 3
    with pytest.raises(ConfigError, match="box.width: must be an integer"):
        THINGS.build({"name": "nut", "width": "5"}, 1, 2, key="box")


@pytest.mark.parametrize(
    "name, parameters, complaint",
    [
        ("bold", {}, "box: unknown thing 'bold'. Did you mean 'bolt'?"),
        ("washer", {}, "box: unknown thing 'washer'. Known: bolt, nut."),
        ("bolt", {}, "box.length: this key is required."),
        ("bolt", {"length": 0}, "box.length: must be at least 1 (it is 0)."),
        ("bolt", {"length": "3"}, "box.length: must be an integer (it is '3', which is text: leave the quotes out)."),
        ("bolt", {"length": 3, "lenght": 4}, "box.lenght: unknown key. Did you mean 'length'?"),
        ("bolt", {"length": 3, "price": -1}, "box.price: must be greater than 0 (it is -1)."),
        ("bolt", {"length": 3, "price": float("inf")}, "box.price: must be a finite number (it is inf)."),
        (
            "bolt",
            {"length": 3, "sizes": [4, -1]},
            "box.sizes.1: must be at least 0 (it is -1).",
        ),
        ("bolt", {"length": 3, "sizes": "none"}, "box.sizes: must be a list or 'all' (it is 'none')."),
        (
            "bolt",
            {"length": {"a": "x" * 99}},
            f"box.length: must be an integer (it is {{'a': '{'x' * 31}...{'x' * 37}'}}).",
        ),
        ("bolt", {5: 6, "length": 3}, "box.5: a key must be text (it is 5)."),
    ],
)
def test_complaints_name_key_value_and_remedy(name, parameters, complaint):
    with pytest.raises(ConfigError) as error:
        THINGS.check(Spec(name, parameters), "box")
    assert str(error.value) == complaint


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's own."""
    text = """
def good(one, two, *, colour: str = "red"): "Mine."
def narrow(one, *, colour="red"): ...
def odd(one, two, *, colour: "Nowhere" = 1): ...
number = 5
"""
    (tmp_path / "own_things.py").write_text(text)
    (tmp_path / "torn_things.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_users_own_piece_is_imported_and_its_parameters_are_checked(own):
    assert THINGS.get("own_things:good").__doc__ == "Mine."
    assert THINGS.check("own_things:good", "box").parameters == {"colour": "red"}
    with pytest.raises(ConfigError, match="box.colour: must be text"):
        THINGS.check({"name": "own_things:good", "colour": 5}, "box")


@pytest.mark.parametrize(
    "name, complaint",
    [
        (
            "own_things:bad",
            "cannot import .* has no attribute 'bad'. Is it beside the configuration, or on PYTHONPATH?",
        ),
        ("no_things:good", "cannot import .* No module named 'no_things'"),
        ("torn_things:good", "cannot import .* SyntaxError"),
        ("own_things:number", "'own_things:number' is not a function or class"),
        (
            "own_things:narrow",
            r"'own_things:narrow' cannot be called with \(one, two, key=value, ...\), as any thing is: too many",
        ),
        ("own_things:odd", "'own_things:odd' cannot be called with .*'Nowhere' is not defined"),
    ],
)
def test_a_users_own_piece_that_does_not_fit_is_refused(own, name, complaint):
    with pytest.raises(ConfigError, match=f"box: {complaint}"):
        THINGS.check(name, "box")


@pytest.mark.parametrize("registry", SECTIONS.values(), ids=lambda registry: registry.kind)
def test_every_registered_piece_fits_its_registry(registry):
    for name in registry:
        try:
            registry.check(name, "key")
        except ConfigError as error:
            assert str(error).endswith("this key is required."), error
        assert registry.describe(name).endswith("."), name
