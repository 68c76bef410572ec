"""Names of runs: safe on any file system, unique, and the same when a sweep grows."""

import re

from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st

from byzdist.sweeping.naming import folder_name, label

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def test_plain_settings_are_readable():
    found = folder_name({"aggregation.rule": "krum", "method.step_size": 1e-5, "seed": 0})
    assert found == "rule=krum,step_size=1e-05,seed=0"
    assert folder_name({"data.name": "a9a", "model.name": "mlp"}) == "data.name=a9a,model.name=mlp"


def test_values_that_a_file_system_takes_for_the_same_differ():
    names = {folder_name({"rule": value}).lower() for value in ("mine:half", "mine/half", "mine-half", "Mine:half")}
    assert len(names) == 4 and all(re.fullmatch(r"[a-z0-9._+=,-]+", name) for name in names)


def test_a_label_is_what_people_write():
    assert label({"name": "krum"}) == "krum" and label({"name": "krum", "m": 2}) == "krum(m=2)"
    assert label(["alie", {"name": "ipm", "epsilon": 0.5}]) == "alie+ipm(epsilon=0.5)"
    assert [label(value) for value in (None, True, [], 0.1)] == ["null", "true", "none", "0.1"]


@settings_(max_examples=20)
@given(st.dictionaries(st.text(min_size=1, max_size=30), VALUES, min_size=1, max_size=8))
def test_any_settings_make_one_plain_folder_name(settings):
    name = folder_name(settings)
    assert re.fullmatch(r"[a-z0-9._+=,-]{1,200}", name) and name == folder_name(dict(settings))
