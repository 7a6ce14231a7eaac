"""What the pages' widgets hold: in the address, so that it can be shared and gone back to, and across pages, which ask
about the same two tokenizers and the same text.

Streamlit's own binding of widgets to the address (bind="query-params") is not used: it forgets what a page held when
another one is opened, and shows the defaults when the browser goes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import RerunException, get_script_run_ctx

_KEY = "_choices"

# Characters of one value that an address takes: servers refuse those of some ten thousand.
_LONGEST = 4_000

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """A widget's value in the address: of one `kind`, `many` of them where it is a list, each one of `options`, numbers
    from `least` to `most`."""

    kind: type = str
    many: bool = False
    options: tuple[Any, ...] = ()
    least: float = 0
    most: float = math.inf

    def read(self, texts: Iterable[str]) -> Any:
        """The value, None where the address has none that the widget could hold."""
        found = [value for value in map(self._value, texts) if value is not None]
        found = [value for value in found if not self.options or value in self.options]
        return (found if self.many else found[0]) if found else None

    def _value(self, text: str) -> Any:
        if self.kind is bool:
            return {"true": True, "false": False}.get(text.lower())
        if self.kind in (int, float):
            try:
                value = self.kind(text)
            except ValueError:
                return None
            return value if self.least <= value <= self.most else None
        return text or None

    def write(self, value: Any) -> list[str]:
        """The texts that `read` takes back; none where one is too long for an address."""
        texts = [str(one).lower() if self.kind is bool else str(one) for one in (value if self.many else [value])]
        return [] if any(len(text) > _LONGEST for text in texts) else texts


Fields = Mapping[str, Field]


@dataclass
class Choices:
    """One per session: the page last shown, what widgets last held, what they hold where nothing was chosen, and
    whether the browser has just gone back (or forth) on this page."""

    page: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    back: bool = False


def _choices() -> Choices:
    found: Choices = st.session_state.setdefault(_KEY, Choices())
    return found


def show(page: str, fields: Fields, run: Callable[[], None]) -> None:
    """Run a page whose widgets and address are brought together before and after.

    Args:
        page: its path.
        fields: of its widgets, by their keys.
    """
    _carry_over(page, fields)
    try:
        run()
    except RerunException:  # the run that comes next settles it; by now the browser may be at another address
        _keep(fields)
        raise
    except BaseException:  # a page that stops early has widgets too
        settle(fields)
        raise
    settle(fields)


def _carry_over(page: str, fields: Fields) -> None:
    """Give the widgets what the address says, if the page was just opened at it or the browser has gone back to it, and
    what they last held if it was opened from another page."""
    choices = _choices()
    shown: dict[str, Any] = {}
    navigated = bool(getattr(get_script_run_ctx(), "is_history_navigation", False))
    choices.back = navigated and choices.page == page
    if choices.page not in (None, page):
        # The query is still that of the page before, also where the browser goes back.
        shown = {key: choices.values.get(key) for key in fields}
        # Now, and not only at the end: the browser would make two entries of its history of it.
        st.query_params.from_dict({k: told for k, v in shown.items() if (told := _told(k, v, fields))})
    elif choices.page is None or navigated:
        asked = {key: field.read(st.query_params.get_all(key)) for key, field in fields.items()}
        shown = {key: choices.defaults.get(key) if value is None else value for key, value in asked.items()}
    for key, value in shown.items():
        if value is not None:
            st.session_state[key] = value
    choices.page = page


def gone_back() -> bool:
    """Whether the browser has gone back or forth to this very page, whose address now counts for all that it shows."""
    return _choices().back


def begin_with(key: str, value: Any) -> None:
    """What a widget holds where nothing was chosen; to be called before it is made, without a default of its own."""
    _choices().defaults[key] = value
    if key not in st.session_state and value is not None:
        st.session_state[key] = value


def settle(fields: Fields) -> None:
    """Bring the address to what the page's widgets hold after its run, or that of a part that runs by itself; defaults
    are left out."""
    new: dict[str, str | Iterable[str]] = {}
    for key, value in _keep(fields).items():
        told = _told(key, value, fields)
        if told != st.query_params.get_all(key):
            if told:
                new[key] = told
            else:
                del st.query_params[key]
    if new:
        st.query_params.update(new)


def _keep(fields: Fields) -> dict[str, Any]:
    """What the widgets that are shown hold, which is remembered for other pages."""
    held = {key: st.session_state[key] for key in fields if key in st.session_state}
    _choices().values.update(held)
    return held


def _told(key: str, value: Any, fields: Fields) -> list[str]:
    return [] if value in (None, "", []) or value == _choices().defaults.get(key) else fields[key].write(value)


def hand_over(values: dict[str, Any]) -> None:
    """Let the page that is opened next show these values of its widgets."""
    _choices().values.update(values)
    for key in values:
        # What is still held here would be taken for a choice made since.
        st.session_state.pop(key, None)


def remembered(key: str, default: T) -> T:
    """What a widget last held on its page, `default` if it was never shown."""
    found: T = _choices().values.get(key, default)
    return found
