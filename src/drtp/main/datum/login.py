"""`datumctl login, logout`: who one is, from a browser here or anywhere, kept beside the context."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import click
import msgspec
from yarl import URL

from drtp.client.api import ApiClient
from drtp.client.context import Context, load_context, save_context, save_kubeconfig
from drtp.client.joining import pinned_root
from drtp.client.knownissuers import KnownIssuers
from drtp.client.loopback import Callback
from drtp.client.oidc import Granted, Issuer, OidcClient, new_pkce, oidc_client
from drtp.client.signin import issuer_of, keep, locked, path_of, read_sign_in
from drtp.client.vouching import offered
from drtp.kit.clock import SystemClock
from drtp.kit.errors import DrtpError, NotFound, Refused, Retryable, Terminal
from drtp.kit.files import private_directory
from drtp.kit.observe import printable
from drtp.kit.secret import Secret
from drtp.main.commands.options import OutputForm, output_option
from drtp.main.datum.access import system_roots
from drtp.main.datum.invocation import Invocation, context_option, proxy_option
from drtp.main.shell import Misused, run_async

_file = click.Path(dir_okay=False, path_type=Path)


class _Wanted(NamedTuple):
    """How to sign in, as said."""

    api: str | None
    ca_file: Path | None
    pin: str | None
    issuer: str | None
    device: bool
    browser: bool
    project: str | None
    kubeconfig: Path | None
    output: OutputForm


@click.command(short_help="Sign in, and keep it in the context.")
@click.argument("api", required=False, metavar="[https://API]")
@context_option
@proxy_option
@click.option(
    "--ca-file", type=_file, help="PEM: whom to trust at the API.  [default: the context's, or the machine's]"
)
@click.option("--pin", help="Fingerprint of the API's root, the part of a join string after #.")
@click.option("--issuer", metavar="URL", help="The issuer that you expect, or one of several.")
@click.option("--device", is_flag=True, help="Sign in on another device's browser.")
@click.option("--browser/--no-browser", default=True, help="Open a browser, or only print the address.")
@click.option("--project", help="Project to work in.  [default: the context's, or `default`]")
@click.option("--kubeconfig", type=_file, help="Write a kubeconfig too, whose kubectl signs in by this.")
@output_option
def login(output: OutputForm, **options: Any) -> int:
    """Sign in, and keep it in the context: in a browser on this machine, or (--device) on any other.

    The control plane says whom to sign in with. An issuer elsewhere is confirmed once, or named with --issuer, and a
    change is not followed.
    """
    return run_async(_login(Invocation.current(), _Wanted(output=output, **options)))


@click.command()
@context_option
@proxy_option
def logout() -> int:
    """End the sign-in of the context, here and at the issuer."""
    return run_async(_logout(Invocation.current()))


async def _login(invocation: Invocation, wanted: _Wanted) -> int:
    path = invocation.context_file or invocation.usual_context
    context = await _reached(path, wanted)
    known = KnownIssuers(invocation.known_issuers)
    context, issuer = await _issuer(context, wanted, known)
    async with oidc_client(issuer) as client:
        if wanted.device or not (_can_open_browser() or not wanted.browser):
            granted = await _by_device(client, wanted)
        else:
            granted = await _by_browser(client, issuer, wanted)
    if not path.parent.exists():
        private_directory(path.parent)
    known.remember(context.api, issuer)
    async with locked(path, SystemClock()):
        keep(path, issuer, granted)
        save_context(path, context)
    if wanted.kubeconfig is not None:
        save_kubeconfig(wanted.kubeconfig, context)
    await _greet(path, context, granted, wanted)
    return 0


async def _reached(path: Path, wanted: _Wanted) -> Context:
    """The context to write: the one there is, with what was said put over it. Raises: Misused, Refused, Terminal."""
    present = load_context(path) if path.exists() else None
    if wanted.api is None and present is None:
        raise Misused("DRTP-7002", "No control plane was named.", "Give its address: datumctl login https://…")
    api = (wanted.api or (present.api if present else "")).rstrip("/")
    parts = urlsplit(api)
    if parts.scheme != "https" or not parts.hostname:
        raise Misused("DRTP-7002", f"{api} is not the https:// address of an API.", "Such as https://api.example.com.")
    same = present if present is not None and present.api == api else None
    if wanted.pin is not None:
        try:
            roots = pinned_root(await offered(URL(f"{api}/.well-known/drtp/bundle")), wanted.pin, SystemClock().now())
        except (aiohttp.ClientError, OSError, TimeoutError) as fault:
            raise Retryable("DRTP-7011", f"{api} cannot be reached: {str(fault) or 'no answer in time'}.") from fault
    elif wanted.ca_file is not None:
        roots = wanted.ca_file.read_bytes()
    else:
        roots = same.ca_pem if same is not None else system_roots()
    namespace = wanted.project or (same.namespace if same is not None else "default")
    founding = same.founding_pem if same is not None and roots == same.ca_pem else b""
    return Context(api=api, ca_pem=roots, namespace=namespace, sign_in=path, founding_pem=founding)


async def _issuer(context: Context, wanted: _Wanted, known: KnownIssuers) -> tuple[Context, Issuer]:
    """The context with its roots of now, and whom to sign in with: as its API says, and as the person confirms.

    Raises: Terminal DRTP-7080; Refused DRTP-7090, DRTP-7091, DRTP-7092.
    """
    try:
        async with ApiClient(context) as api:
            told = await api.request("GET", "/.well-known/drtp")
            context = api.context
    except NotFound as fault:
        raise Terminal("DRTP-7080", f"{context.api} is no control plane.") from fault
    listed: list[Any] = told.get("login") or []
    offers = [_offered(one, context) for one in listed]
    found = [one for one in offers if wanted.issuer in (None, one.issuer)]
    if not found:
        there = ", ".join(one.issuer for one in offers) or "none"
        raise Terminal(
            "DRTP-7080", f"The control plane offers no sign-in at {wanted.issuer or 'any issuer'}; there is: {there}."
        )
    chosen = known.preferred(context.api, found)
    if not known.is_confirmed(context.api, chosen, named=wanted.issuer is not None):
        await _confirm(context, chosen, wanted)
    return context, chosen


def _offered(told: dict[str, Any], context: Context) -> Issuer:
    local = told.get("local") is True
    ca = context.ca_pem.decode() if local else str(told.get("ca") or "")
    scopes = tuple(told.get("scopes") or ("openid",))
    return Issuer(str(told["issuer"]), str(told["clientID"]), scopes, ca, local)


async def _confirm(context: Context, chosen: Issuer, wanted: _Wanted) -> None:
    """Have a person say that this is where they sign in. Raises: Refused DRTP-7090 where nobody can, or does not."""
    what = f"{context.api} wants you to sign in at {printable(chosen.issuer)}, as client {printable(chosen.client_id)}."
    at_terminal = sys.stdin.isatty() and sys.stderr.isatty() and wanted.output is not OutputForm.JSON
    if at_terminal:
        click.echo(f"{what}\nIt gets a token of that issuer for that client.", err=True)
        if await asyncio.to_thread(click.confirm, "Is that right?", err=True):
            return
    raise Refused(
        "DRTP-7090",
        what,
        f"If you expect it, name it: datumctl login {context.api} --issuer {printable(chosen.issuer)}",
    )


async def _by_browser(client: OidcClient, issuer: Issuer, wanted: _Wanted) -> Granted:
    pkce = new_pkce()
    says_who = client.endpoints.authorization_response_iss_parameter_supported
    callback = Callback(pkce.state, issuer.issuer, says_who=says_who)
    async with callback.listening(SystemClock()):
        url = client.authorize_url(callback.redirect_uri, pkce)
        _say(wanted, "browser", f"Sign in at\n  {url}", url=url)
        if wanted.browser:
            await asyncio.to_thread(_open_browser, url)
        code = await callback.code()
    return await client.redeem(code, callback.redirect_uri, pkce)


async def _by_device(client: OidcClient, wanted: _Wanted) -> Granted:
    start = await client.start_device()
    _say(
        wanted,
        "device",
        f"On any device, open\n  {start.verification_uri}\nand enter the code\n  {start.user_code}",
        url=start.verification_uri,
        complete=start.verification_uri_complete,
        code=start.user_code,
    )
    return await client.wait_for_device(start)


async def _greet(path: Path, context: Context, granted: Granted, wanted: _Wanted) -> None:
    """Say who it is now; where the control plane does not take the token, say that instead. Raises: Refused."""
    body: dict[str, Any] = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
    signed = Context(api=context.api, ca_pem=context.ca_pem, token=granted.id_token)
    try:
        async with ApiClient(signed) as api:
            answer = await api.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=body)
    except Refused as fault:
        raise Refused("DRTP-2030", "The issuer signed you in, and the control plane does not take its word.") from fault
    name = str(answer["status"]["userInfo"]["username"])
    _say(wanted, "signedIn", f"Signed in as {name} at {context.api}, in {path}", user=name, context=str(path))


async def _logout(invocation: Invocation) -> int:
    path = invocation.context_file or invocation.usual_context
    held = read_sign_in(path)
    if held is None:
        raise Refused("DRTP-7087")
    async with locked(path, SystemClock()):
        held = read_sign_in(path) or held
        path_of(path).unlink(missing_ok=True)
    told = True
    if held.refresh_token:
        try:
            async with oidc_client(await issuer_of(held, path)) as client:
                await client.revoke(Secret(held.refresh_token))
        except (DrtpError, aiohttp.ClientError) as fault:
            told = False
            click.echo(f"the issuer could not be told: {fault}", err=True)
    click.echo("signed out" if told else "signed out here", err=True)
    return 0


def _can_open_browser() -> bool:
    """Whether there is a screen that a browser could be on. A browser for terminals would take this one away."""
    return sys.platform in {"darwin", "win32"} or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )


def _open_browser(url: str) -> None:
    import webbrowser

    webbrowser.open(url)


def _say(wanted: _Wanted, event: str, words: str, **what: str) -> None:
    if wanted.output is OutputForm.JSON:
        click.echo(msgspec.json.encode({"event": event, **what}).decode())
    else:
        click.echo(words, err=True)
    sys.stdout.flush()
