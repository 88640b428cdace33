"""What a stranger may try with ID tokens, against the real verifier and an issuer that answers over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from drtp.api.people import AUTHENTICATED, Proof
from drtp.issuers.audit import AuditLog
from drtp.issuers.digests import Pepper
from drtp.issuers.idtokens import IdTokens, TrustedIssuer
from drtp.issuers.jose import key_set, read_token
from drtp.issuers.logins import Logins
from drtp.issuers.people import People
from drtp.issuers.remotekeys import DOCUMENT_BYTES_MAX, REST_S
from drtp.issuers.signingkeys import AHEAD, LIFETIME, SigningKeys
from drtp.issuers.tokens import Accounts
from drtp.kit import door
from drtp.kit.clock import FakeClock, SystemClock
from drtp.kit.errors import Refused
from drtp.rules.idclaims import LEEWAY_S
from drtp.store.memory import MemoryStore

AUDIENCE = "drtp"


def _pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


_RSA = _pem(rsa.generate_private_key(65537, 2048))
"""Made once: it takes a while."""


class Foreign:
    """An issuer with an EC and an RSA key, and a count of how often it is asked."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, ECKey | RSAKey] = {
            "ec": ECKey.import_key(_pem(ec.generate_private_key(ec.SECP256R1()))),
            "rsa": RSAKey.import_key(_RSA),
        }
        self.asked = 0
        self.keys_text = ""
        self.answer: dict[str, Any] | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        listener = door.listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with door.serving("issuer", app, listener, door.NEIGHBOURS, SystemClock()):
            yield

    async def _discovery(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.answer is not None:
            return web.Response(**self.answer)
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def _keys(self, _request: web.Request) -> web.Response:
        return web.Response(text=self.keys_text) if self.keys_text else web.json_response({"keys": self.jwks()})

    def jwks(self) -> list[dict[str, Any]]:
        return [{**key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]

    def claims(self, clock: FakeClock, **more: Any) -> dict[str, Any]:
        now = int(clock.now().timestamp())
        found = {"iss": self.url, "sub": "sam", "aud": AUDIENCE, "iat": now, "exp": now + 600, **more}
        return {name: value for name, value in found.items() if value is not ...}

    def sign(self, claims: dict[str, Any], kid: str = "ec", alg: str = "ES256", **header: Any) -> str:
        return jwt.encode({"alg": alg, "kid": kid, **header}, claims, self.keys[kid.split("/", maxsplit=1)[0]], [alg])


class Bed:
    def __init__(self, directory: Path, foreign: Foreign) -> None:
        self.clock = FakeClock()
        self.foreign = foreign
        self.store = MemoryStore(self.clock)
        self.audit = AuditLog(directory / "audit" / "audit.log", self.clock)
        logins = Logins(self.store, Pepper(b"l" * 32), self.audit, self.clock)
        self.accounts = Accounts(self.store, Pepper(b"p" * 32), self.audit, self.clock, "drtp.test", logins)
        trusted = TrustedIssuer(foreign.url, AUDIENCE, "corp#", groups_claim="groups")
        self.tokens = IdTokens((trusted,), self.clock)
        self.people = People(self.accounts, self.tokens)

    async def who(self, token: str) -> str | None:
        user = await self.people.authenticate(token, None, "127.0.0.1")
        return user.name if user is not None else None


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    foreign = Foreign()
    async with foreign.serving(), asyncio.TaskGroup() as group:
        made = Bed(tmp_path, foreign)
        fetching = group.create_task(made.tokens.run())
        yield made
        fetching.cancel()


async def test_a_user_is_issuer_and_subject_whatever_the_token_says_of_names_and_mail(bed: Bed) -> None:
    claims = bed.foreign.claims(bed.clock, email="admin@corp.example", name="admin", groups=["staff"])
    for kid, alg in (("ec", "ES256"), ("rsa", "RS256"), ("rsa", "PS256")):
        user = await bed.people.authenticate(bed.foreign.sign(claims, kid, alg), None, "127.0.0.1")
        assert user is not None
        assert (user.name, user.groups, user.proof) == ("corp#sam", ("corp#staff", AUTHENTICATED), Proof.LOGIN)


async def test_groups_of_an_issuer_never_are_groups_of_ours(bed: Bed) -> None:
    claims = bed.foreign.claims(bed.clock, groups=["system:masters"])
    user = await bed.people.authenticate(bed.foreign.sign(claims), None, "127.0.0.1")
    assert user is not None and user.groups == ("corp#system:masters", AUTHENTICATED)


async def test_a_foreign_user_who_was_revoked_is_nobody_before_the_token_ends(bed: Bed) -> None:
    token = bed.foreign.sign(bed.foreign.claims(bed.clock))
    assert await bed.who(token) == "corp#sam"
    await bed.accounts.shut("corp#sam")
    assert await bed.who(token) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": ["http://127.0.0.1"]},
        {"iss": ...},
        {"aud": "other"},
        {"aud": [AUDIENCE, "other"]},
        {"aud": []},
        {"aud": ...},
        {"azp": "other"},
        {"exp": ...},
        {"exp": "2999-01-01"},
        {"exp": True},
        {"exp": 1e300},
        {"iat": ...},
        {"sub": ...},
        {"sub": ""},
        {"sub": "s" * 256},
        {"sub": "sam\n"},
        {"sub": 7},
        {"groups": "staff\x1b[2J"},
        {"groups": [["staff"]]},
        {"groups": ["g"] * 300},
    ],
)
async def test_claims_that_are_not_right_prove_nobody(bed: Bed, wrong: dict[str, Any]) -> None:
    assert await bed.who(bed.foreign.sign(bed.foreign.claims(bed.clock, **wrong))) is None
    assert await bed.who(bed.foreign.sign(bed.foreign.claims(bed.clock))) == "corp#sam"


@pytest.mark.parametrize(
    ("shift", "fits"),
    [
        ({"exp": -LEEWAY_S + 1}, True),
        ({"exp": -LEEWAY_S}, False),
        ({"nbf": LEEWAY_S}, True),
        ({"nbf": LEEWAY_S + 1}, False),
        ({"iat": LEEWAY_S}, True),
        ({"iat": LEEWAY_S + 1}, False),
        ({"exp": 26 * 3600}, False),
    ],
)
async def test_times_have_a_little_leeway_and_no_more(bed: Bed, shift: dict[str, float], fits: bool) -> None:
    now = bed.clock.now().timestamp()
    token = bed.foreign.sign(bed.foreign.claims(bed.clock, **{name: now + by for name, by in shift.items()}))
    assert (await bed.who(token) is not None) is fits


async def test_alg_none_and_hmac_with_the_public_key_prove_nobody_cve_2015_9235(bed: Bed) -> None:
    """CVE-2015-9235 and its kin: the header chooses among what the key's owner signs with, and never beyond."""
    claims = bed.foreign.claims(bed.clock)
    good = bed.foreign.sign(claims, "rsa", "RS256")
    assert await bed.who(good) == "corp#sam"
    key = bed.foreign.keys["rsa"]
    public = key.as_pem(private=False)
    body = good.split(".")[1]
    for alg in ("none", "None", "HS256", "hs256"):
        head = _part({"alg": alg, "kid": "rsa", "typ": "JWT"})
        mac = hmac.new(public, f"{head}.{body}".encode(), hashlib.sha256).digest()
        for signature in ("", _b64(mac)):
            assert await bed.who(f"{head}.{body}.{signature}") is None


async def test_a_header_chooses_no_key_of_its_own_cve_2018_0114(bed: Bed) -> None:
    """CVE-2018-0114: `jwk`, `jku` and `x5c` in a header are the caller's words."""
    own = ECKey.generate_key("P-256")
    claims = bed.foreign.claims(bed.clock)
    public = own.as_dict(private=False)
    for header in ({"jwk": public}, {"jku": f"{bed.foreign.url}/keys"}, {"kid": "../../dev/null"}):
        told = {"alg": "ES256", "kid": "ec", **header}
        unsigned = f"{_part(told)}.{_part(claims)}"
        assert await bed.who(_signed(unsigned, own)) is None
    assert await bed.who(_crit(bed, claims)) is None
    assert await bed.who(_signed(f"{_part({'alg': 'ES256', 'kid': 'ec'})}.{_part(claims)}", bed.foreign.keys["ec"]))


async def test_another_kind_of_token_is_no_id_token(bed: Bed) -> None:
    claims = bed.foreign.claims(bed.clock)
    for kind in ("at+jwt", "logout+jwt", "dpop+jwt"):
        assert await bed.who(bed.foreign.sign(claims, typ=kind)) is None


async def test_a_claim_that_comes_twice_is_no_claim(bed: Bed) -> None:
    claims = json.dumps(bed.foreign.claims(bed.clock))
    doubled = claims[:-1] + ', "sub": "root"}'
    key = bed.foreign.keys["ec"]
    unsigned = f"{_part({'alg': 'ES256', 'kid': 'ec'})}.{_b64(doubled.encode())}"
    from joserfc import jws

    token = jws.serialize_compact({"alg": "ES256", "kid": "ec"}, doubled, key, ["ES256"])
    assert token.split(".")[1] == unsigned.split(".")[1]
    assert await bed.who(token) is None


async def test_huge_deep_and_crooked_tokens_are_refused_unread(bed: Bed) -> None:
    deep = _b64(b"[" * 8000)
    for token in ("a.b.c", "..", f"{deep}.{deep}.AAAA", "A" * 20_000 + ".AAAA.AAAA", "é.AAAA.AAAA", "AAAA.AAAA.AA=="):
        assert await bed.who(token) is None
    assert bed.foreign.asked == 0


async def test_an_unknown_kid_makes_us_ask_once_in_a_while_whoever_sends_it(bed: Bed) -> None:
    token = bed.foreign.sign(bed.foreign.claims(bed.clock))
    assert await bed.who(token) == "corp#sam"
    assert bed.foreign.asked == 1
    head, body, signature = token.split(".")
    for number in range(50):
        stranger = _part({"alg": "ES256", "kid": f"stranger-{number}"})
        assert await bed.who(f"{stranger}.{body}.{signature}") is None
    assert bed.foreign.asked == 1
    assert await bed.who(token) == "corp#sam" and head
    await bed.clock.advance(REST_S + 1)
    bed.foreign.keys["new"] = ECKey.generate_key("P-256")
    fresh = bed.foreign.sign(bed.foreign.claims(bed.clock), "new")
    assert await bed.who(fresh) == "corp#sam"
    assert bed.foreign.asked == 2


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}},
        {"status": 500},
        {"text": "no json"},
        {"text": '{"issuer": "https://elsewhere.example", "jwks_uri": "https://elsewhere.example/keys"}'},
        {"text": " " * (DOCUMENT_BYTES_MAX + 1)},
        {"text": "[" * 100_000},
        {"body": b"\xff\xfe"},
    ],
)
async def test_an_issuer_that_answers_wrongly_proves_nobody_and_breaks_nothing_ghsa_whjr_3j94_gw3c(
    bed: Bed, answer: dict[str, Any]
) -> None:
    bed.foreign.answer = answer
    token = bed.foreign.sign(bed.foreign.claims(bed.clock))
    assert await bed.who(token) is None
    bed.foreign.answer = None
    await bed.clock.advance(REST_S + 1)
    assert await bed.who(token) == "corp#sam"


async def test_an_issuer_that_never_answers_keeps_only_its_own_people_waiting(bed: Bed, tmp_path: Path) -> None:
    silent = door.listen("127.0.0.1", 0)
    there = TrustedIssuer(f"http://127.0.0.1:{silent.getsockname()[1]}", AUDIENCE, "silent#")
    here = TrustedIssuer(bed.foreign.url, AUDIENCE, "corp#")
    people = People(bed.accounts, tokens := IdTokens((there, here), bed.clock))
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(tokens.run())
        theirs = bed.foreign.sign(bed.foreign.claims(bed.clock, iss=there.issuer))
        waiting = [group.create_task(people.authenticate(theirs, None, "127.0.0.1")) for _ in range(20)]
        await asyncio.sleep(0.05)
        user = await people.authenticate(bed.foreign.sign(bed.foreign.claims(bed.clock)), None, "127.0.0.1")
        assert user is not None and user.name == "corp#sam"
        assert not any(one.done() for one in waiting)
        for one in (fetching, *waiting):
            one.cancel()
    silent.close()


async def test_keys_of_an_issuer_that_is_away_hold_for_a_day(bed: Bed) -> None:
    assert await bed.who(bed.foreign.sign(bed.foreign.claims(bed.clock))) == "corp#sam"
    bed.foreign.answer = {"status": 503}
    for _ in range(20):
        await bed.clock.advance(3600)
        assert await bed.who(bed.foreign.sign(bed.foreign.claims(bed.clock))) == "corp#sam"
    await bed.clock.advance(5 * 3600)
    assert await bed.who(bed.foreign.sign(bed.foreign.claims(bed.clock))) is None


async def test_a_key_that_the_issuer_withdrew_is_dropped_at_the_next_look(bed: Bed) -> None:
    assert await bed.who(bed.foreign.sign(bed.foreign.claims(bed.clock))) == "corp#sam"
    old = bed.foreign.keys.pop("ec")
    await bed.clock.advance(3601)
    claims = bed.foreign.claims(bed.clock)
    stolen = jwt.encode({"alg": "ES256", "kid": "ec"}, claims, old, ["ES256"])
    await bed.who(stolen)
    for _ in range(200):
        if bed.foreign.asked == 2:
            break
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while await bed.who(stolen) is not None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "keys", ["[" * 100_000, '{"keys": {"a": 1}}', '{"keys": "abc"}', "[]", '{"keys": [{"kty": []}]}']
)
async def test_a_key_set_that_is_none_proves_nobody_and_breaks_nothing(bed: Bed, keys: str) -> None:
    bed.foreign.keys_text = keys
    token = bed.foreign.sign(bed.foreign.claims(bed.clock))
    assert await bed.who(token) is None
    bed.foreign.keys_text = ""
    await bed.clock.advance(REST_S + 1)
    assert await bed.who(token) == "corp#sam"


def test_weak_and_foreign_keys_of_a_set_are_passed_over() -> None:
    number = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
    weak = {"kty": "RSA", "n": _b64(number.to_bytes(128, "big")), "e": "AQAB"}
    curve = ECKey.generate_key("P-521").as_dict(private=False)
    good = ECKey.generate_key("P-256").as_dict(private=False)
    found = key_set(
        json.dumps(
            {
                "keys": [
                    {**weak, "kid": "weak"},
                    {**curve, "kid": "curve"},
                    {"kty": "oct", "k": "AAAA", "kid": "secret"},
                    {**good, "kid": "encrypts", "use": "enc"},
                    {**good, "kid": "other", "alg": "RS256"},
                    {**good},
                    7,
                    {**good, "kid": "good"},
                ]
            }
        ).encode()
    )
    assert set(found) == {"good"}


@given(st.text(max_size=200))
def test_any_text_is_refused_in_order(text: str) -> None:
    with pytest.raises(Refused):
        read_token(f"{text}.{text}.{text}")


async def test_signing_keys_are_published_a_day_before_they_sign_and_go_after_their_tokens(tmp_path: Path) -> None:
    clock = FakeClock()
    keys = SigningKeys(tmp_path / "signing", clock)
    first = read_token(keys.sign({"sub": "x"})).kid
    await clock.advance((LIFETIME - AHEAD).total_seconds())
    assert {one["kid"] for one in keys.published()["keys"]} > {first}
    assert read_token(keys.sign({"sub": "x"})).kid == first
    await clock.advance(AHEAD.total_seconds())
    second = read_token(keys.sign({"sub": "x"})).kid
    assert second != first and keys.find(first) is not None
    again = SigningKeys(tmp_path / "signing", clock)
    assert read_token(again.sign({"sub": "x"})).kid == second
    await clock.advance((LIFETIME + timedelta(days=3)).total_seconds())
    keys.sign({})
    await clock.advance(timedelta(days=2).total_seconds())
    assert keys.find(first) is None and keys.find(second) is not None
    assert all("d" not in one for one in keys.published()["keys"])
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "signing").iterdir())


def _crit(bed: Bed, claims: dict[str, Any]) -> str:
    told = {"alg": "ES256", "kid": "ec", "crit": ["exp"], "exp": 1}
    return _signed(f"{_part(told)}.{_part(claims)}", bed.foreign.keys["ec"])


def _signed(unsigned: str, key: Any) -> str:
    """With a signature that holds, as JWS has it: r and s, 32 bytes each."""
    r, s = decode_dss_signature(key.private_key.sign(unsigned.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{unsigned}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _part(value: Any) -> str:
    return _b64(json.dumps(value).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
