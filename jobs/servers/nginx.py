"""How the gateway is started: nginx from the system, one port before the REST servers that are named in the settings."""

import os
import pwd
import re
import shutil
from pathlib import Path

from anabranch.errors import MisuseError
from jobs.servers.server import Server, ServerError, accepts
from jobs.wiring.settings import ROOT, Settings
from serving.settings import is_loopback, network_place

CONF = ROOT / "conf" / "nginx"


def gateway(settings: Settings, java: str) -> Server:  # noqa: ARG001 - made as every server
    """The gateway of these settings."""
    home = settings.data / "nginx"
    return Server(
        name="nginx",
        ports={"nginx_port": settings.servers.nginx_port},
        home=home,
        command=[
            _program(),
            "-p",
            str(home),
            "-c",
            str(home / "nginx.conf"),
            "-e",
            "stderr",
            "-g",
            "daemon off;",
        ],
        prepare=lambda: _prepare(settings, home),
        ready=lambda: accepts(settings.servers.nginx_port, settings.servers.nginx_host),
    )


def configuration(settings: Settings) -> str:
    """The text of nginx.conf for these settings.

    Raises MisuseError when a certificate has no key, or the other way round, and when others could reach the gateway without TLS or credentials.
    """
    servers, serving = settings.servers, settings.serving
    certificate, key = servers.nginx_tls_certificate, servers.nginx_tls_key
    if bool(certificate) != bool(key):
        raise MisuseError(
            "servers.nginx_tls_certificate and servers.nginx_tls_key belong together: name both files, or neither"
        )
    if not is_loopback(servers.nginx_host):
        lacking = [
            what
            for what, there in (("TLS", certificate), ("authentication", serving.auth == "on"))
            if not there
        ]
        if lacking:
            raise MisuseError(
                f"servers.nginx_host {servers.nginx_host} can be reached by others, and the gateway has no {' and no '.join(lacking)}: set "
                'servers.nginx_tls_certificate and servers.nginx_tls_key, and serving.auth = "on" for the REST servers behind it, or keep to 127.0.0.1'
            )
    tls = [
        f"ssl_certificate {(ROOT / certificate).resolve()};",
        f"ssl_certificate_key {(ROOT / key).resolve()};",
        "ssl_protocols TLSv1.2 TLSv1.3;",
    ]
    values = {
        # As root nginx would become nobody, who may not read this folder.
        "user": f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
        "rate": servers.nginx_rate,
        "address_rate": servers.nginx_address_rate,
        # One that failed is left out for a second, then tried again.
        "upstreams": "\n".join(
            f"        server {address} max_fails=1 fail_timeout=1s;" for address in servers.nginx_upstreams
        ),
        "listen": f"{network_place(servers.nginx_host, servers.nginx_port)}{' ssl' if certificate else ''}",
        "tls": "\n".join(f"        {line}" for line in tls) if certificate else "",
        "body_bytes": serving.body_bytes,
        "patience": int(serving.bus_timeout_seconds) + 5,
    }
    # Not as Python's templates: nginx has variables with dollars of its own.
    return re.sub(
        r"@\{([a-z_]+)\}",
        lambda found: str(values[found[1]]),
        (CONF / "nginx.conf").read_text(encoding="utf-8"),
    )


def _prepare(settings: Settings, home: Path) -> None:
    (home / "nginx.conf").write_text(configuration(settings), encoding="utf-8")


def _program() -> str:
    # Debian keeps it where only root looks for programs.
    found = shutil.which("nginx") or next(
        (str(path) for path in (Path("/usr/sbin/nginx"), Path("/usr/local/sbin/nginx")) if path.exists()),
        None,
    )
    if found is None:
        raise ServerError("nginx is not found: install it (Debian: nginx-light) and put it on the PATH")
    return found
