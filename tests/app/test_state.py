"""What widgets hold, as the address says it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.runtime.scriptrunner import RerunData, RerunException, StopException
from streamlit.testing.v1 import AppTest

from app import state
from app.state import Field

NUMBERS = Field(float, least=1e-7, most=1.0)


@given(st.floats(1e-7, 1.0))
def test_numbers_come_back_as_they_were(value: float) -> None:
    assert NUMBERS.read(NUMBERS.write(value)) == value


@given(st.lists(st.sampled_from(("a b", "c&d", "東")), min_size=1), st.booleans())
def test_lists_and_switches_come_back(values: list[str], on: bool) -> None:
    many = Field(many=True)
    assert many.read(many.write(values)) == values
    assert Field(bool).read(Field(bool).write(on)) is on


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (Field(int), "-1"), (Field(int), "1.5"), (Field(int, least=1), "0"), (Field(int, most=9), "10"),
        (NUMBERS, "nan"), (NUMBERS, "2"), (NUMBERS, "fast"), (Field(bool), "yes"), (Field(options=("a", "b")), "c"),
        (Field(many=True, options=("a",)), "b"), (Field(), ""),
    ],
)  # fmt: skip
def test_what_a_widget_could_not_hold_is_as_if_it_were_not_there(field: Field, text: str) -> None:
    assert field.read([text]) is None


def test_the_training_form_is_in_its_address_and_bad_values_are_not_taken() -> None:
    page = AppTest.from_string(
        "from app import state\n"
        "from app.views import training\n"
        "state.show('training', training.FIELDS, training.render)",
        default_timeout=120,
    )
    page.query_params["train_lam"] = "0.5"
    page.query_params["train_epochs"] = "0"
    page.query_params["train_sources"] = ["smollm2-135m", "gemma-3-270m"]
    page.run()
    assert not page.exception, page.exception
    assert page.slider(key="train_lam").value == 0.5 and page.number_input(key="train_epochs").value == 1
    assert page.multiselect(key="train_sources").value == ["smollm2-135m", "gemma-3-270m"]
    page.number_input(key="train_batch").set_value(2).run()
    assert page.query_params["train_batch"] in ("2", ["2"]) and "train_epochs" not in page.query_params


def test_edited_yaml_comes_back_unless_the_form_has_changed() -> None:
    page = AppTest.from_string("from app.views import training\ntraining.render()", default_timeout=120).run()
    page.toggle(key="train_own").set_value(True).run()
    edited = page.text_area(key="train_yaml").value + "max_length: 64\n"
    page.text_area(key="train_yaml").set_value(edited).run()
    assert page.slider(key="train_lam").disabled
    page.toggle(key="train_own").set_value(False).run()
    page.toggle(key="train_own").set_value(True).run()
    assert page.text_area(key="train_yaml").value == edited
    page.toggle(key="train_own").set_value(False).run()
    page.slider(key="train_lam").set_value(0.5).run()
    page.toggle(key="train_own").set_value(True).run()
    assert (
        "max_length" not in page.text_area(key="train_yaml").value and "0.5" in page.text_area(key="train_yaml").value
    )


def test_a_run_that_another_one_cuts_short_leaves_the_address_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the browser may have gone back, and would be sent to where it came from."""
    done: list[str] = []
    for name in ("_carry_over", "settle", "_keep"):
        monkeypatch.setattr(state, name, lambda *_, name=name: done.append(name))

    def ending(error: BaseException | None) -> list[str]:
        def page() -> None:
            if error is not None:
                raise error

        done.clear()
        with nullcontext() if error is None else pytest.raises(type(error)):
            state.show("page", {}, page)
        return done[1:]

    assert ending(RerunException(RerunData())) == ["_keep"]
    assert ending(None) == ending(StopException()) == ending(ValueError()) == ["settle"]
