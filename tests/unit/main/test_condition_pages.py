"""The pages of conditions follow the registry, and the registry follows the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from drtp.api.reasons import Aspect, Reason
from drtp.kit.codes import CODES
from drtp.main.commands.condition_pages import pages
from drtp.rules.advice import TOPICS

ROOT = Path(__file__).parents[3]
DIRECTORY = ROOT / "docs" / "operations" / "conditions"
DECIDING = [
    file
    for room in ("rules", "controllers", "projections", "edgeserver", "issuers", "apiserver")
    for file in (ROOT / "src" / "drtp" / room).glob("*.py")
    if file.name not in {"advice.py", "conditions.py"}
]
MAKERS = {"yes", "no", "unknown"}


def _members(node: ast.expr, enum: str) -> set[str]:
    """Every member of an enum that an expression names, as in `A if x else B`."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == enum
    }


def _concluded() -> Iterator[tuple[Aspect, Reason]]:
    """Each (aspect, reason) that a rule or controller can come to by itself."""
    for file in DECIDING:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or len(call.args) < 2:
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in MAKERS:
                aspects, reasons = _members(call.args[0], "Aspect"), _members(call.args[1], "Reason")
                assert aspects, f"{file.name}:{call.lineno}: the aspect is not a member of Aspect"
                assert reasons, f"{file.name}:{call.lineno}: the reason is not a member of Reason"
                for aspect, reason in product(aspects, reasons):
                    yield Aspect[aspect], Reason[reason]


def test_every_page_is_what_the_registry_makes() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.md")}
    assert written == pages(), "run `python -m drtp.main.commands.condition_pages docs/operations/conditions`"


def test_every_reason_concluded_is_registered_and_every_registered_one_is_concluded() -> None:
    registered = {(aspect, reason) for aspect, topic in TOPICS.items() for reason in topic.reasons}
    concluded = set(_concluded())
    assert concluded - registered == set()
    assert registered - concluded == set()


def test_every_word_is_used_and_nothing_is_spelled_by_hand() -> None:
    assert set(TOPICS) == set(Aspect)
    assert {reason for topic in TOPICS.values() for reason in topic.reasons} == set(Reason)


def test_every_reason_says_what_it_means_and_what_to_do() -> None:
    for aspect, topic in TOPICS.items():
        assert topic.meaning.endswith(".")
        for reason, advice in topic.reasons.items():
            assert advice.on, (aspect, reason)
            assert advice.meaning.endswith("."), (aspect, reason)
            assert advice.remedy.endswith("."), (aspect, reason)
            assert (advice.look or topic.look)[0].startswith("kubectl "), (aspect, reason)
            assert not advice.code or advice.code in CODES, (aspect, reason)
