"""`datumctl auth`: what proves one, for other programs: a token, a kubeconfig, a certificate."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import click
import msgspec

from drtp.client.api import ApiClient
from drtp.client.context import Context, save_kubeconfig
from drtp.client.keys import new_key, request_for
from drtp.client.signin import fresh_token
from drtp.kit.errors import Refused
from drtp.kit.files import write_atomic
from drtp.main.datum.access import access
from drtp.main.datum.invocation import Invocation, context_option, proxy_option
from drtp.main.shell import run_async, until

IDENTITY = "identity.datumapis.com/v1alpha"


class TokenForm(Enum):
    """How a token is printed."""

    TOKEN = "token"  # noqa: S105 - a word
    EXEC = "exec-credential"


@click.group()
def auth() -> None:
    """Tokens, kubeconfigs and certificates, for other programs."""


@auth.command("get-token", short_help="Print a token that is good now.")
@context_option
@proxy_option
@click.option("--session", help="A host's session; this one has the context's only.")
@click.option(
    "--output",
    "-o",
    type=click.Choice([form.value for form in TokenForm]),
    default=TokenForm.TOKEN.value,
    show_default=True,
    help="exec-credential: as kubectl's plugins answer.",
)
def get_token(session: str | None, output: str) -> int:
    """Print a token that is good now, alone on stdout; a sign-in is renewed first where it is due."""
    context = access(Invocation.current())
    if context.token is None:
        raise Refused("DRTP-7087", "The context has no token: it proves its user by a certificate.")
    status: dict[str, str] = {"token": context.token.reveal()}
    if context.sign_in is not None:
        ends_at = datetime.fromtimestamp(fresh_token(context.sign_in)[1], UTC)
        status["expirationTimestamp"] = ends_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    if TokenForm(output) is TokenForm.TOKEN:
        click.echo(status["token"])
        return 0
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {}, "status": status}
    click.echo(msgspec.json.encode(answer).decode())
    return 0


@auth.command(short_help="Write a kubeconfig for this context.")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@context_option
def kubeconfig(path: Path) -> int:
    """Write a kubeconfig for this context to PATH; where one signed in, kubectl asks `datumctl` for each token."""
    save_kubeconfig(path, access(Invocation.current()))
    click.echo(f"{path} written", err=True)
    return 0


@auth.command("control-plane", short_help="Print where agents enrol.")
@context_option
@proxy_option
def control_plane() -> int:
    """Print where agents enrol, with the fingerprint of its root: for `serve --control-plane`. It is no secret."""
    return run_async(_control_plane(Invocation.current()))


class CertificateForm(Enum):
    """How a certificate is written."""

    KUBECONFIG = "kubeconfig"
    PEM = "pem"


@auth.command("client-certificate", short_help="Write a kubeconfig, or PEM, with a certificate.")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@context_option
@proxy_option
@click.option(
    "--output",
    "-o",
    type=click.Choice([form.value for form in CertificateForm]),
    default=CertificateForm.KUBECONFIG.value,
    show_default=True,
    help="pem: certificate and key in one file, as `curl --cert` takes them.",
)
def client_certificate(path: Path, output: str) -> int:
    """Write a certificate of your own to PATH, good for 8 hours. Its key is made and stays here.

    In a kubeconfig it is for the API; in PEM for https addresses of services whose owners want to know who comes.
    """
    return run_async(_certify(Invocation.current(), path, CertificateForm(output)))


async def _control_plane(invocation: Invocation) -> int:
    async with ApiClient(access(invocation)) as api:
        told = await api.request("GET", "/.well-known/drtp")
    click.echo(str(told["controlPlane"]))
    return 0


async def _certify(invocation: Invocation, path: Path, form: CertificateForm) -> int:
    context = access(invocation)
    key = new_key()
    async with ApiClient(context) as api:
        ask = {"apiVersion": IDENTITY, "kind": "ClientCertificate", "spec": {"csr": request_for(key)}}
        status: dict[str, str] = (await api.create(ask, "clientcertificates"))["status"]
    chain = status["certificate"].encode()
    if form is CertificateForm.PEM:
        write_atomic(path, chain + key.reveal())
    else:
        proven = Context(
            api=context.api, ca_pem=context.ca_pem, namespace=context.namespace, cert_pem=chain, key_pem=key
        )
        save_kubeconfig(path, proven)
    click.echo(f"{path} is good until {until(status['expires'])}", err=True)
    return 0
