"""A second reader of PROXY headers, written from the specification: `native/fuzz` holds the core's parser against it.

Reads one header in hex a line and answers each with a line of JSON: its reading as v2 only, and as v1 or v2. It shares
the product's own bounds (1,024 bytes of v2 body, two TLVs of ours) and no line of its code. Standard library only.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
BODY_MAX = 1024
LINE_MAX = 107
STREAM_ID, SERVICE, GATEWAY, VISITOR = 0xE0, 0xE1, 0xE2, 0xE4
ADDRESS_BYTES = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
NO_STREAM = "00000000-0000-0000-0000-000000000000"
IPV4 = re.compile(r"[0-9]+(\.[0-9]+){3}")
IPV6 = re.compile(r"[0-9a-fA-F:.]+")
PORT = re.compile(r"0|[1-9][0-9]{0,4}")

Verdict = str | dict[str, object]


class Refused(Exception):
    """The header must not be believed."""


def any_version(data: bytes) -> Verdict:
    """Version 1 where it begins as one, otherwise version 2."""
    starts = data[:6]
    return version_1(data) if starts and b"PROXY ".startswith(starts) else version_2(data)


def version_1(data: bytes) -> Verdict:
    """A line of words."""
    line, end, _ = data[:LINE_MAX].partition(b"\r\n")
    if not end:
        if len(data) >= LINE_MAX:
            raise Refused
        return "partial"
    words = text_of(line).split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return whole(len(line) + 2)
    match words:
        case ["PROXY", "TCP4" | "TCP6" as family, source, destination, source_port, destination_port]:
            first = endpoint(address_in_words(family, source), port_in_words(source_port))
            second = endpoint(address_in_words(family, destination), port_in_words(destination_port))
            return whole(len(line) + 2, first, second)
        case _:
            raise Refused


def version_2(data: bytes) -> Verdict:
    """A signature, a command, a family, and a body with a length."""
    if not (data.startswith(SIGNATURE) or SIGNATURE.startswith(data)):
        raise Refused
    if len(data) < 16:
        return "partial"
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if length > BODY_MAX or command not in (0x20, 0x21):
        raise Refused
    if len(data) < 16 + length:
        return "partial"
    body = data[16 : 16 + length]
    if family not in ADDRESS_BYTES or len(body) < ADDRESS_BYTES[family]:
        raise Refused
    addresses, rest = body[: ADDRESS_BYTES[family]], body[ADDRESS_BYTES[family] :]
    source = destination = None
    if command == 0x21 and family >> 4 in (1, 2):  # a LOCAL header carries no addresses to be believed
        width = 4 if family >> 4 == 1 else 16
        ports = addresses[2 * width :]
        source = endpoint(packed(addresses[:width]), int.from_bytes(ports[:2], "big"))
        destination = endpoint(packed(addresses[width : 2 * width]), int.from_bytes(ports[2:], "big"))
    stream, service, gateway, visitor = tlvs(rest)
    return whole(16 + length, source, destination, stream, service, gateway, visitor)


def tlvs(rest: bytes) -> tuple[str, str | None, str | None, Verdict | None]:
    """The stream id, the service, the gateway, and who has signed in. Each may be there once."""
    found: dict[int, str] = {}
    visitor: Verdict | None = None
    while rest:
        if len(rest) < 3 or len(rest) < 3 + int.from_bytes(rest[1:3], "big"):
            raise Refused
        kind, size = rest[0], int.from_bytes(rest[1:3], "big")
        value, rest = rest[3 : 3 + size], rest[3 + size :]
        if kind in (STREAM_ID, SERVICE, GATEWAY):
            if kind in found:
                raise Refused
            found[kind] = text_of(value)
        if kind == VISITOR and value:
            if visitor is not None:
                raise Refused
            visitor = person(text_of(value))
    stream = found.get(STREAM_ID, NO_STREAM)
    if UUID.fullmatch(stream) is None:
        raise Refused
    return "" if stream == NO_STREAM else stream.lower(), found.get(SERVICE), found.get(GATEWAY), visitor


def person(text: str) -> Verdict:
    """A JSON object with a name, and groups where there are any."""
    try:
        said = json.loads(text, parse_constant=unfit, parse_float=finite)
        json.dumps(said, ensure_ascii=False).encode()  # half a pair of surrogates is no text
    except (ValueError, RecursionError):
        raise Refused from None
    groups = said.get("groups", []) if isinstance(said, dict) else None
    if not isinstance(groups, list) or not all(isinstance(one, str) for one in groups):
        raise Refused
    if not isinstance(said.get("name"), str):
        raise Refused
    return {"name": said["name"], "groups": groups}


def unfit(_word: str) -> None:
    """NaN and its like are no JSON."""
    raise Refused


def finite(digits: str) -> float:
    """A number that there is."""
    found = float(digits)
    if found in (float("inf"), float("-inf")):
        raise Refused
    return found


def text_of(data: bytes) -> str:
    """UTF-8, or refused."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refused from None


def address_in_words(family: str, text: str) -> str:
    """An address of this family, in the form in which visitors' addresses are compared."""
    if (IPV4 if family == "TCP4" else IPV6).fullmatch(text) is None:
        raise Refused
    try:
        address = ipaddress.IPv4Address(text) if family == "TCP4" else ipaddress.IPv6Address(text)
    except ValueError:
        raise Refused from None
    return packed(address.packed)


def port_in_words(text: str) -> int:
    """A port without leading zeros."""
    if PORT.fullmatch(text) is None or int(text) > 0xFFFF:
        raise Refused
    return int(text)


def packed(octets: bytes) -> str:
    """The address in words; IPv4 in IPv6 clothes is IPv4."""
    address = ipaddress.ip_address(octets)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def endpoint(address: str, port: int) -> str:
    """Address and port as one word."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def whole(
    length: int,
    source: str | None = None,
    destination: str | None = None,
    stream: str = "",
    service: str | None = None,
    gateway: str | None = None,
    visitor: Verdict | None = None,
) -> Verdict:
    """A header and its length."""
    return {
        "length": length,
        "source": source,
        "destination": destination,
        "stream": stream,
        "service": service,
        "gateway": gateway,
        "visitor": visitor,
    }


def main() -> None:
    """Answer until there are no more lines."""
    for line in sys.stdin:
        data, answers = bytes.fromhex(line.strip()), []
        for read in (version_2, any_version):
            try:
                answers.append(read(data))
            except Refused:
                answers.append("refused")
        sys.stdout.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
