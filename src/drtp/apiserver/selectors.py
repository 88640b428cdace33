"""Label and field selectors, compiled to one test on a stored object."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from drtp.api.jsonvalue import is_object
from drtp.api.kinds import KindInfo
from drtp.apiserver.failures import bad_request
from drtp.store.protocol import Select, Stored

Labels = Mapping[str, str]

_SET = re.compile(r"\s*([A-Za-z0-9_./-]+)\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUAL = re.compile(r"\s*([A-Za-z0-9_./-]+)\s*(==|=|!=)\s*([A-Za-z0-9_.-]*)\s*")
_EXISTS = re.compile(r"\s*(!?)\s*([A-Za-z0-9_./-]+)\s*")
_FIELD = re.compile(r"([A-Za-z0-9_.]+)(==|=|!=)(.*)", re.DOTALL)
TERMS_MAX = 64
"""More terms than any client sends; each is work for every object of a list."""


def compile_selectors(info: KindInfo, label_selector: str, field_selector: str) -> Select | None:
    """A test for both selectors; None where everything passes. Raises: Failure 400."""
    labels = _label_tests(label_selector)
    fields = _field_tests(info, field_selector)
    if not labels and not fields:
        return None

    def selects(stored: Stored) -> bool:
        return all(test(stored.labels) for test in labels) and all(test(stored) for test in fields)

    return selects


def selected_name(field_selector: str) -> str:
    """The one name that a field selector lets pass; "" where it does not say one."""
    for term in field_selector.split(","):
        found = _FIELD.fullmatch(term)
        if found and found[1] == "metadata.name" and found[2] != "!=":
            return found[3]
    return ""


def _label_tests(text: str) -> list[Callable[[Labels], bool]]:
    if text.count(",") > TERMS_MAX * 8:
        raise bad_request("unable to parse requirement: too many terms")
    terms = [term for term in re.split(r",(?![^()]*\))", text) if term.strip()]
    if len(terms) > TERMS_MAX:
        raise bad_request(f"unable to parse requirement: more than {TERMS_MAX} terms")
    return [_label_test(term) for term in terms]


def _label_test(term: str) -> Callable[[Labels], bool]:
    if found := _SET.fullmatch(term):
        key, how, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        return (
            (lambda labels: labels.get(key) in values)
            if how == "in"
            else (lambda labels: labels.get(key) not in values)
        )
    if found := _EQUAL.fullmatch(term):
        key, how, value = found.groups()
        return (lambda labels: labels.get(key) != value) if how == "!=" else (lambda labels: labels.get(key) == value)
    if found := _EXISTS.fullmatch(term):
        absent, key = found.groups()
        return (lambda labels: key not in labels) if absent else (lambda labels: key in labels)
    raise bad_request(f"unable to parse requirement: {term!r}")


def _field_tests(info: KindInfo, text: str) -> list[Select]:
    terms = [term for term in text.split(",") if term]
    if len(terms) > TERMS_MAX:
        raise bad_request(f"unable to parse field selector: more than {TERMS_MAX} terms")
    return [_field_test(info, term) for term in terms]


def _field_test(info: KindInfo, term: str) -> Select:
    found = _FIELD.fullmatch(term)
    if not found:
        raise bad_request(f"unable to parse field selector: invalid selector: {term!r}")
    path, how, wanted = found.groups()
    if path not in {"metadata.name", "metadata.namespace"} and f".{path}" not in info.selectable_fields:
        raise bad_request(f"field label not supported: {path}")
    steps = path.split(".")
    if how == "!=":
        return lambda stored: _text_at(stored.object, steps) != wanted
    return lambda stored: _text_at(stored.object, steps) == wanted


def _text_at(value: Any, steps: list[str]) -> str:
    for step in steps:
        value = value.get(step) if is_object(value) else None
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
