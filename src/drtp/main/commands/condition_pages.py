"""The troubleshooting pages of conditions, made from the registry of advice.

`python -m drtp.main.commands.condition_pages docs/operations/conditions` brings them up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from drtp.api.meta import ConditionStatus
from drtp.api.reasons import Aspect, Reason
from drtp.rules.advice import TOPICS, Advice, Speaks, Topic

_HEAD = """# Conditions

Every object of DRTP says in `status.conditions` what has become of it: a type, `True`, `False` or `Unknown`, a reason
that stays the same over versions, and a sentence. `Unknown` is "nobody has reported". Where somebody has to act, an
Event tells it too: `kubectl describe` shows both.

```sh by-hand
kubectl get drtpservices -A
kubectl get events -n NAMESPACE --field-selector type=Warning
```

These pages are made from `src/drtp/rules/advice.py` by
`python -m drtp.main.commands.condition_pages docs/operations/conditions`.

| type | says | of |
|---|---|---|
"""


def pages(topics: Mapping[Aspect, Topic] = TOPICS) -> dict[str, str]:
    """File name -> content: one page for each condition type, and an index. Equal registries give equal pages."""
    return {"README.md": _index(topics), **{f"{aspect}.md": _page(aspect, topic) for aspect, topic in topics.items()}}


def write(directory: Path) -> None:
    """Bring the directory up to date; pages of types that are gone are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    current = pages()
    for path in directory.glob("*.md"):
        if path.name not in current:
            path.unlink()
    for name, content in current.items():
        (directory / name).write_text(content, encoding="utf-8")


def where(code: str) -> list[tuple[Aspect, Reason]]:
    """The conditions whose message carries an error code."""
    return [
        (aspect, reason)
        for aspect, topic in TOPICS.items()
        for reason, advice in topic.reasons.items()
        if advice.code == code
    ]


def anchor(reason: str) -> str:
    """A heading's address on its page."""
    return reason.lower()


def _index(topics: Mapping[Aspect, Topic]) -> str:
    rows = [
        f"| [{aspect}]({aspect}.md) | {topic.meaning} | {', '.join(_kinds(topic))} |"
        for aspect, topic in topics.items()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _kinds(topic: Topic) -> Iterable[str]:
    return dict.fromkeys(kind for advice in topic.reasons.values() for kind in advice.on)


def _page(aspect: Aspect, topic: Topic) -> str:
    lines = [f"# {aspect}", "", topic.meaning]
    if topic.good is ConditionStatus.FALSE:
        lines += ["", "It is bad news when `True`, and `False` or not there otherwise."]
    if topic.passes_on:
        linked = ", ".join(f"[{one}]({one}.md)" for one in topic.passes_on)
        lines += ["", f"It repeats what stands in the way: a reason that is not here is one of {linked}."]
    lines += ["", "| reason | on |", "|---|---|"]
    lines += [f"| [{one}](#{anchor(one)}) | {', '.join(advice.on)} |" for one, advice in topic.reasons.items()]
    for reason, advice in topic.reasons.items():
        lines += ["", *_section(reason, advice, topic)]
    return "\n".join([*lines, "", "[All conditions](README.md).", ""])


def _section(reason: Reason, advice: Advice, topic: Topic) -> list[str]:
    code = f" [{advice.code}](../../errors/{advice.code}.md) says more." if advice.code else ""
    lines = [f"## {reason}", "", f"**What it means.** {advice.meaning}"]
    lines += ["", f"**What to do.** {advice.remedy}{code}"]
    if advice.speaks is Speaks.NEVER:
        lines += ["", "No Event tells of it, since it passes by itself."]
    lines += ["", "**What to look at.**", "", "```sh by-hand", *(advice.look or topic.look), "```"]
    return lines


if __name__ == "__main__":
    write(Path(sys.argv[1]))
