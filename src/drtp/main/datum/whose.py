"""Whose identity is in a connector's directory: on one account of an operating system one signs out and another in.

An identity says whose it is, as a uid that only the control plane has a user for. So what its user has shown is noted
beside it, and whoever shows the same goes on with it, whether the control plane is there or not. Who shows something
else is asked for by the control plane: the same user goes on, another begins with an identity of their own.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec

from drtp.api.credentials import ENROLMENT_PREFIX, TOKEN_PREFIX, read
from drtp.api.spiffe import identity_of, parse_uri
from drtp.client.api import ApiClient
from drtp.client.context import Context
from drtp.client.identity import IdentityStore
from drtp.client.signin import read_sign_in
from drtp.kit.exclusive import exclusive
from drtp.kit.files import read_private, write_atomic
from drtp.kit.observe import logger
from drtp.kit.secret import Secret

log = logger("connect")

BY_SECRET = "secret"  # noqa: S105 - a word
"""Enrolled by a one-time secret: the directory is an application's, whoever starts it."""
MARKS_MAX = 16
"""Of one user: newer tokens and sign-ins push out older ones, which are asked about again."""
_FILE = "enrolled-as.json"


class _Noted(msgspec.Struct, frozen=True):
    """The file. `marks`: what its user has shown, the newest last; no secret among it."""

    marks: tuple[str, ...] = ()


def mark_of(context: Context) -> str:
    """What a context shows, the same for as long as it is of one user; no secret."""
    signed_in = read_sign_in(context.sign_in) if context.sign_in is not None else None
    if signed_in is not None:
        return f"sign-in {signed_in.issuer}#{signed_in.subject}"
    if context.token is not None:
        text = context.token.reveal()
        known = read(text, TOKEN_PREFIX)
        return f"token {known.id}" if known is not None else f"token {hashlib.sha256(text.encode()).hexdigest()}"
    return f"certificate {identity_of(context.cert_pem).uid}" if context.cert_pem else "nothing"


def mark_of_secret(secret: Secret[str]) -> str:
    """What a one-time secret shows, spent or not: its id, which is no secret."""
    known = read(secret.reveal().partition("@")[0], ENROLMENT_PREFIX)
    return f"{BY_SECRET} {known.id}" if known is not None else BY_SECRET


def settle_secret(state_dir: Path, secret: Secret[str]) -> None:
    """See to it that an identity here, if there is one, is of that very secret, spent or not: else it is given up.

    Raises: Terminal DRTP-4010 while another process runs with it.
    """
    marks = _noted(state_dir)
    # One that was noted without its id may be of this one.
    ours = mark_of_secret(secret) in marks or marks == (BY_SECRET,)
    if not ours and IdentityStore(state_dir).load() is not None:
        _give_up(state_dir, "it is not of the secret that was given")


def note_secret(state_dir: Path, mark: str) -> None:
    """The identity here is an application's from now on, and nobody's of before."""
    write_atomic(state_dir / _FILE, msgspec.json.encode(_Noted((BY_SECRET, mark))))


def note(state_dir: Path, mark: str) -> None:
    """The identity here is of whoever shows this."""
    marks = (*(one for one in _noted(state_dir) if one != mark), mark)[-MARKS_MAX:]
    write_atomic(state_dir / _FILE, msgspec.json.encode(_Noted(marks)))


async def settle(state_dir: Path, context: Context) -> None:
    """See to it that an identity here, if there is one, is of whoever the context is: else it is given up.

    Raises: as `ApiClient`, where the control plane has to be asked: nobody goes on as somebody that they may not be;
    Terminal DRTP-4010 while a process of the former user runs with it.
    """
    identity = IdentityStore(state_dir).load()
    marks, mark = _noted(state_dir), mark_of(context)
    if identity is None or mark in marks or BY_SECRET in marks:
        return
    if await _uid_of(context) != parse_uri(identity.uri).caller:
        _give_up(state_dir, "it is another user's")
        return
    note(state_dir, mark)


def _give_up(state_dir: Path, reason: str) -> None:
    with exclusive(state_dir / "lock", "DRTP-4010", f"Another user's connector runs with {state_dir}."):
        log.info("identity given up", reason=reason)
        shutil.rmtree(state_dir / "identity")
        (state_dir / _FILE).unlink(missing_ok=True)


async def _uid_of(context: Context) -> str:
    body: dict[str, Any] = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
    async with ApiClient(context) as api:
        answer = await api.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=body)
    return str(answer["status"]["userInfo"].get("uid", ""))


def _noted(state_dir: Path) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(read_private(state_dir / _FILE), type=_Noted).marks
    except (FileNotFoundError, msgspec.MsgspecError):
        return ()
