"""Which control plane a command talks to, and as whom."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator
from dataclasses import replace

import click

from drtp.client.api import ApiClient
from drtp.client.context import Context, load_context
from drtp.main.datum.invocation import Invocation
from drtp.main.datum.plugin import host_context
from drtp.main.shell import Misconfigured


def access(invocation: Invocation) -> Context:
    """A named context file first, then what a host CLI says, then the usual file.

    Raises: Misconfigured (DRTP-7003) if there is none, Terminal or Invalid for one that cannot be used.
    """
    if invocation.context_file is not None:
        if not invocation.context_file.exists():
            raise Misconfigured("DRTP-7003", f"There is no context file at {invocation.context_file}.")
        return with_token(load_context(invocation.context_file))
    if (host := host_context()) is not None:
        return Context(api=host.api, ca_pem=system_roots(), namespace=host.project or "default", token=host.token())
    if invocation.usual_context.exists():
        return with_token(load_context(invocation.usual_context))
    raise Misconfigured("DRTP-7003")


def with_token(context: Context) -> Context:
    """The context with a token that is good now, where one signed in. Raises: as `fresh_token`."""
    if context.sign_in is None:
        return context
    # Late: most contexts hold a token, and every start would pay for it.
    from drtp.client.signin import fresh_token

    return replace(context, token=fresh_token(context.sign_in)[0])


@contextlib.asynccontextmanager
async def api_of(invocation: Invocation) -> AsyncGenerator[ApiClient, None]:
    """A client for the command that is running."""
    async with ApiClient(access(invocation)) as api:
        yield api


def namespace_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--namespace NS`; else the context's."""
    return click.option("--namespace", "-n", envvar="DRTP_NAMESPACE", help="Project; else the context's.")(command)


def system_roots() -> bytes:
    """A host's API is a public one: the machine's own roots, as PEM."""
    context = ssl.create_default_context()
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True)).encode()
