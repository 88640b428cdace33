"""How to start an agent or a connector with a one-time secret, as text to paste: for a shell, a container, systemd and
Kubernetes.

The secret is in a here-document or a manifest, or in the file that they name, never in the arguments of a program, and
nothing else is needed on the machine. After the first start the program lives on its state, and the secret is worth
nothing.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

IMAGE = "drtp"
"""An image that has `datumctl` on its path."""

NAME_MAX = 52
"""Of a StatefulSet: its pods' names and labels add to it."""

_END = "END_OF_SECRET"

_KEPT = """\
apiVersion: v1
kind: Secret
metadata: {{name: {unit}}}
stringData: {{secret: "{secret}"}}
---
"""


@dataclass(frozen=True)
class Start:
    """What is started, and for what. `replicas`: as many as the secret lets in. `port`: where a connector presents the
    service on its machine; None: an agent serves it.

    `secret_file`: where the secret is; with it the text names that file and does not have the secret.
    """

    namespace: str
    service: str
    secret: str = ""
    replicas: int = 1
    image: str = IMAGE
    secret_file: str = ""
    port: int | None = None

    @property
    def program(self) -> str:
        """`agent of` or `connector to`, in words of units."""
        return "agent of" if self.port is None else "connector to"

    @property
    def arguments(self) -> str:
        """Of `datumctl`, for a shell."""
        named = shlex.quote(self.named)
        return f"serve --service {named}" if self.port is None else f"connect {named} --local {self.port}"

    @property
    def named(self) -> str:
        """`<namespace>/<service>`, as `--service` takes it."""
        return f"{self.namespace}/{self.service}"

    @property
    def unit(self) -> str:
        """A name for units, volumes and containers."""
        kind = "drtp" if self.port is None else "drtp-connect"
        return f"{kind}-{self.namespace}-{self.service}".replace(".", "-")[:NAME_MAX].rstrip("-")


def instructions(start: Start) -> dict[str, str]:
    """Kind to text. A connector is for the programs of its machine: what Kubernetes should present, people decide."""
    texts = {"shell": _shell(start), "container": _container(start), "systemd": _systemd(start)}
    return texts if start.port is not None else texts | {"kubernetes": _kubernetes(start)}


def _source(start: Start, standard_input: str) -> tuple[str, str]:
    """What a command reads the secret from, and what has to follow the command's line for that."""
    if start.secret_file:
        return shlex.quote(start.secret_file), ""
    return standard_input, f" <<'{_END}'\n{start.secret}\n{_END}"


def _shell(start: Start) -> str:
    state = shlex.quote(f"./{start.unit}")
    command = f"datumctl {start.arguments} --state-dir {state}"
    source, document = _source(start, "-")
    return f"""\
# The next starts: {command}
{command} --secret-file {source}{document}
"""


def _container(start: Start) -> str:
    source, document = _source(start, "/dev/stdin")
    # The place is the machine's own, where its programs find it.
    network = "" if start.port is None else "--network host "
    return f"""\
# {_image_words(start)}
install -m 600 {source} {start.unit}.secret{document}
docker run --detach --restart unless-stopped --name {start.unit} {network}\\
  --volume {start.unit}:/state --volume "$PWD/{start.unit}.secret:/run/secrets/drtp:ro" \\
  {shlex.quote(start.image)} \\
  datumctl {start.arguments} --secret-file /run/secrets/drtp --state-dir /state
"""


def _image_words(start: Start) -> str:
    if start.image != IMAGE:
        return f"{start.image} has datumctl on its path."
    return f"The image {IMAGE} is one of your own making: deploy/Containerfile says how; --image names another."


def _systemd(start: Start) -> str:
    source, document = _source(start, "/dev/stdin")
    return f"""\
sudo install -d -m 700 /etc/drtp
sudo install -m 600 {source} /etc/drtp/{start.unit}.secret{document}
sudo install -m 644 /dev/stdin /etc/systemd/system/{start.unit}.service <<'END_OF_UNIT'
[Unit]
Description=DRTP {start.program} {start.named}
Wants=network-online.target
After=network-online.target

[Service]
DynamicUser=yes
StateDirectory={start.unit}
StateDirectoryMode=0700
LoadCredential=secret:/etc/drtp/{start.unit}.secret
ExecStart=/usr/bin/env datumctl {start.arguments} --secret-file ${{CREDENTIALS_DIRECTORY}}/secret \
--state-dir ${{STATE_DIRECTORY}}
Restart=on-failure
RestartSec=5
# Wrong usage, a refusal, a wrong configuration: trying again changes nothing.
RestartPreventExitStatus=64 77 78

[Install]
WantedBy=multi-user.target
END_OF_UNIT
sudo systemctl daemon-reload
sudo systemctl enable --now {start.unit}.service
"""


def _kubernetes(start: Start) -> str:
    before, secret = "", _KEPT.format(unit=start.unit, secret=start.secret)
    if start.secret_file:
        before = f"kubectl create secret generic {start.unit} --from-file=secret={shlex.quote(start.secret_file)}\n"
        secret = ""
    return f"""\
# {_image_words(start)}
{before}kubectl apply -f - <<'END_OF_MANIFEST'
{secret}apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {start.unit}}}
spec:
  serviceName: {start.unit}
  replicas: {start.replicas}
  selector: {{matchLabels: {{app: {start.unit}}}}}
  template:
    metadata: {{labels: {{app: {start.unit}}}}}
    spec:
      containers:
      - name: agent
        image: {start.image}
        command: [datumctl, serve, --service, {start.named}, --secret-file, /secret/secret, --state-dir, /state/agent]
        volumeMounts:
        - {{name: state, mountPath: /state}}
        - {{name: secret, mountPath: /secret, readOnly: true}}
      volumes:
      # Optional: once it is spent it may be deleted.
      - {{name: secret, secret: {{secretName: {start.unit}, optional: true}}}}
  volumeClaimTemplates:
  - metadata: {{name: state}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 16Mi}}}}}}
END_OF_MANIFEST
"""
