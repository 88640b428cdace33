"""CEL rules of a schema (`x-kubernetes-validations`), held against an object and the one before it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import cel
from cel import stdlib

from drtp.api import faults
from drtp.api.faults import Fault
from drtp.api.jsonvalue import is_list, is_object
from drtp.api.schema import Schema
from drtp.api.structural import join

RULES = "x-kubernetes-validations"

RESERVED = frozenset(
    (
        *("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import"),
        *("let", "loop", "package", "namespace", "return", "var", "void", "while"),
    )
)
"""Members of these names are `__name__` in Kubernetes' rules."""


class _Rule(NamedTuple):
    program: cel.Program
    functions: dict[str, Callable[..., Any]]
    transition: bool
    escapes: bool


def check(
    value: Any, old: Any, schema: Schema, path: str, *, sound: bool = True, settled: bool = False
) -> Iterator[Fault]:
    """Every rule that does not hold, from the whole down to the members. `old` None: there was nothing before.

    `sound` False: the value breaks its schema already; rules that cannot be evaluated on it say nothing then.
    `settled`: it stands in a part that does not change. Such parts were stored under the rules of their time, and only
    rules about the change itself are held against them, as on Kubernetes: a rule that came later locks nobody out.
    """
    settled = settled or (old is not None and old == value)
    for said in schema.get(RULES, ()):
        if settled and not _compiled(said["rule"]).transition:
            continue
        fault = _judge(said, value, old, path, sound=sound)
        if fault is not None:
            yield fault
    if not _has_rules_below(schema):
        return
    if is_object(value):
        yield from _members(value, old, schema, path, sound=sound, settled=settled)
    elif is_list(value) and "items" in schema:
        before = _correlated(value, old, schema)
        for index, item in enumerate(value):
            where = f"{path}[{index}]"
            yield from check(item, before[index], schema["items"], where, sound=sound, settled=settled)


def _members(
    value: dict[str, Any], old: Any, schema: Schema, path: str, *, sound: bool, settled: bool
) -> Iterator[Fault]:
    before: dict[str, Any] = old if is_object(old) else {}
    properties: Schema = schema.get("properties", {})
    rest = schema.get("additionalProperties")
    for name, member in value.items():
        node = properties.get(name, rest if is_object(rest) else None)
        if node is not None:
            yield from check(member, before.get(name), node, join(path, name), sound=sound, settled=settled)


def _has_rules_below(schema: Schema) -> bool:
    """Whether any node under this one has rules; kept by the schema's identity, which never changes."""
    known = _BELOW.get(id(schema))
    if known is None:
        rest = schema.get("additionalProperties")
        children: list[Schema] = [*schema.get("properties", {}).values(), schema.get("items", {})]
        if is_object(rest):
            children.append(rest)
        found = any(RULES in child or _has_rules_below(child) for child in children if child)
        # The schema is kept beside the answer, so that its id is not given to another one.
        known = _BELOW[id(schema)] = (found, schema)
    return known[0]


_BELOW: dict[int, tuple[bool, Schema]] = {}


def _correlated(value: list[Any], old: Any, schema: Schema) -> list[Any]:
    """The item before each item: only lists of type map tell which is which."""
    if not is_list(old) or schema.get("x-kubernetes-list-type") != "map":
        return [None] * len(value)
    names: list[str] = schema["x-kubernetes-list-map-keys"]

    def identity(item: Any) -> str:
        return repr([item.get(name) for name in names]) if is_object(item) else repr(item)

    before: dict[str, Any] = {identity(item): item for item in old}
    return [before.get(identity(item)) for item in value]


def _judge(said: Schema, value: Any, old: Any, path: str, *, sound: bool) -> Fault | None:
    rule = _compiled(said["rule"])
    if rule.transition and old is None and not said.get("optionalOldSelf"):
        return None
    variables: dict[str, Any] = {"self": _escaped(value) if rule.escapes else value}
    if rule.transition:
        variables["oldSelf"] = _escaped(old) if rule.escapes else old
    try:
        holds = rule.program.execute(cel.Context(variables, rule.functions))
    except Exception as failure:  # a rule that cannot be evaluated does not hold, whatever the reason
        if not sound:
            return None
        return faults.invalid(path, value, f"rule evaluation error: {failure} evaluating rule: {said['rule']}")
    if holds is True:
        return None
    where = path + said.get("fieldPath", "")
    message = _message(said, variables)
    reason: str = said.get("reason") or "FieldValueInvalid"
    if reason == "FieldValueRequired":
        return faults.required(where, message)
    return Fault(where, reason, f"Invalid value: {faults.shown(value)}: {message}")


def _message(said: Schema, variables: dict[str, Any]) -> str:
    """What `messageExpression` comes to; where it comes to nothing, `message`, as on Kubernetes."""
    fixed = str(said.get("message") or f"failed rule: {said['rule']}").strip()
    if "messageExpression" not in said:
        return fixed
    asked = _compiled(said["messageExpression"])
    try:
        found: object = asked.program.execute(cel.Context(variables, asked.functions))
    except Exception:  # whatever the reason: the fault is there, only its words are not
        return fixed
    return found.strip() if isinstance(found, str) and found.strip() and "\n" not in found else fixed


@cache
def _compiled(source: str) -> _Rule:
    program = cel.compile(source)
    functions = {name: FUNCTIONS[name] for name in program.functions() if name in FUNCTIONS}
    return _Rule(program, functions, "oldSelf" in program.variables(), "__" in source)


def _escaped(value: Any) -> Any:
    if is_object(value):
        members = {name: _escaped(member) for name, member in value.items()}
        return members | {f"__{name}__": member for name, member in members.items() if name in RESERVED}
    if is_list(value):
        return [_escaped(item) for item in value]
    return value


def is_ip(text: str) -> bool:
    """Kubernetes' `isIP`: no zone, no IPv4 in IPv6 form, no leading zeros."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text and not (address.version == 6 and address.ipv4_mapped is not None)


def is_cidr(text: str) -> bool:
    """Kubernetes' `isCIDR`: an address and a prefix length; host bits may be set."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdigit() or (length != "0" and length.startswith("0")):
        return False
    return is_ip(address) and int(length) <= ipaddress.ip_address(address).max_prefixlen


def cidr(text: str) -> str:
    """Kubernetes' `cidr`: the value it stands for, in its one spelling. Raises: ValueError for none."""
    if not is_cidr(text):
        raise ValueError(f"{text!r} is no CIDR")
    return ipaddress.ip_interface(text).with_prefixlen


def masked(value: str) -> str:
    """The network that a `cidr` is in."""
    return str(ipaddress.ip_interface(value).network)


def _functions() -> dict[str, Callable[..., Any]]:
    context = cel.Context()
    stdlib.add_stdlib_to_context(context)
    extra = {
        name: call for name, call in context.functions.items() if name not in {"contains", "bool"}
    }  # core has them
    return {**extra, "isIP": is_ip, "isCIDR": is_cidr, "cidr": cidr, "masked": masked}


FUNCTIONS: dict[str, Callable[..., Any]] = _functions()
"""What Kubernetes' rules may call beyond the core of CEL."""
