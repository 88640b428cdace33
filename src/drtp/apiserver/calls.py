"""One request on its way: who asks, for what, in which form, with which body."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, NamedTuple

import msgspec
import yaml
from aiohttp import web

from drtp.api.jsonvalue import JsonObject, is_object
from drtp.api.kinds import KindInfo
from drtp.api.meta import Key
from drtp.api.people import User
from drtp.apiserver import protobuf
from drtp.apiserver.failures import Failure, bad_request
from drtp.apiserver.paths import Target
from drtp.store.protocol import Stored

BODY_BYTES_MAX = 3 * 1024 * 1024
"""Kubernetes' own bound on a request."""

YAML_BYTES_MAX = 256 * 1024
"""YAML is read by pure Python, at about a second for a megabyte."""

BODY_DEADLINE_S = 30.0
"""A body that takes longer is a slow reader's trick, or a link on which nothing would work."""

TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})


class Form(Enum):
    """How objects are shown."""

    OBJECT = "Object"
    TABLE = "Table"
    PARTIAL = "PartialObjectMetadata"


class Call(NamedTuple):
    """An authorised request for a resource."""

    request: web.Request
    user: User
    target: Target
    info: KindInfo
    verb: str

    @property
    def key(self) -> Key:
        """The object that the path names."""
        return Key(self.info.key, self.target.namespace, self.target.name)

    def parameter(self, name: str) -> str:
        """A query parameter, "" where absent."""
        return self.request.query.get(name, "")

    def flag(self, name: str) -> bool:
        """A boolean query parameter."""
        return self.parameter(name) in TRUE

    def number(self, name: str) -> int:
        """A number in a query parameter, 0 where absent. Raises: Failure 400."""
        text = self.parameter(name)
        if not text:
            return 0
        if not text.isascii() or not text.isdigit() or len(text) > 19:
            raise bad_request(f"{name}: Invalid value: must be a number that is not negative")
        return int(text)

    @property
    def field_selector(self) -> str:
        """The field selector; a watch of one object is a watch of the collection that selects its name."""
        said = self.parameter("fieldSelector")
        if self.verb == "watch" and self.target.name:
            return ",".join(filter(None, (f"metadata.name={self.target.name}", said)))
        return said

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be written. Raises: Failure 422 for a value other than All."""
        said = self.request.query.getall("dryRun", [])
        if any(value != "All" for value in said):
            raise Failure(422, "DRTP-1017", 'dryRun: Unsupported value: supported values: "All"')
        return bool(said)

    @property
    def form(self) -> Form:
        """What the client would rather have, of what there is. Raises: Failure 406."""
        accepted = self.request.headers.get("Accept", "*/*")
        for entry in accepted.split(","):
            media, *parameters = (part.strip() for part in entry.split(";"))
            if media not in {"application/json", "application/*", "*/*"}:
                continue
            wanted = next((part.removeprefix("as=") for part in parameters if part.startswith("as=")), "")
            if wanted == "Table":
                return Form.TABLE
            if wanted.startswith("PartialObjectMetadata"):
                return Form.PARTIAL
            if not wanted:
                return Form.OBJECT
        raise Failure(406, "DRTP-1016", "only application/json is served")

    @property
    def include(self) -> str:
        """What a Table's rows carry: None, Metadata or Object."""
        said = self.parameter("includeObject") or "Metadata"
        if said not in {"None", "Metadata", "Object"}:
            raise bad_request('includeObject: Unsupported value: supported values: "None", "Metadata", "Object"')
        return said

    def raw(self, stored: Stored) -> bytes:
        """An object's JSON in the version that the path names; all versions of a kind have one shape."""
        if self.target.version == self.info.version:
            return stored.raw
        return msgspec.json.encode(self.as_asked(stored.object))

    def as_asked(self, obj: JsonObject) -> JsonObject:
        """An object in the version that the path names."""
        if self.target.version == self.info.version:
            return obj
        return obj | {"apiVersion": f"{self.info.group}/{self.target.version}"}


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises: Failure 413, 408."""
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await request.read()
    except TimeoutError:
        raise Failure(408, "DRTP-1014", f"the body did not arrive within {BODY_DEADLINE_S:.0f} s") from None
    except web.HTTPRequestEntityTooLarge:
        message = f"Request entity too large: limit is {BODY_BYTES_MAX}"
        raise Failure(413, "DRTP-1015", message) from None


def decoded(content_type: str, body: bytes) -> Any:
    """A JSON value, from JSON or from Kubernetes' protobuf. Raises: Failure 400, 415."""
    if content_type == protobuf.CONTENT_TYPE or body.startswith(protobuf.MAGIC):
        try:
            return protobuf.decode(body)
        except ValueError as error:
            raise Failure(415, "DRTP-1016", f"the protobuf body cannot be read: {error}") from None
    if content_type not in {"application/json", "application/octet-stream", ""}:
        raise Failure(415, "DRTP-1016", f"{content_type} is not taken; send application/json")
    return json_value(body)


def json_value(body: bytes) -> Any:
    """A JSON value. Raises: Failure 400; the text itself is never said, it may hold a secret."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(400, "DRTP-1014", f"the body is not JSON: {error}") from None


class _NoAliases(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not taken")
        return super().compose_node(parent, index)


def yaml_object(body: bytes) -> JsonObject:
    """An object from an apply patch, which is JSON or YAML. Raises: Failure 400."""
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if len(body) > YAML_BYTES_MAX:
            raise Failure(413, "DRTP-1015", f"YAML beyond {YAML_BYTES_MAX} bytes is not taken; send JSON") from None
        try:
            # Times stay texts: JSON has none.
            loaded: Any = yaml.load(body, Loader=_NoAliases)  # noqa: S506 - a safe loader
            value = msgspec.json.decode(msgspec.json.encode(loaded))  # plain JSON from here on: names are texts
        except (yaml.YAMLError, msgspec.MsgspecError, RecursionError, ValueError, TypeError):
            raise Failure(400, "DRTP-1014", "the body is neither JSON nor YAML") from None
    if not is_object(value):
        raise Failure(400, "DRTP-1014", "the body is not an object")
    return value


_NoAliases.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


async def read_object(request: web.Request) -> JsonObject:
    """The body as an object. Raises: Failure."""
    value = decoded(request.content_type, await read_body(request))
    if not is_object(value):
        raise Failure(400, "DRTP-1014", "the body is not an object")
    return value
