"""The gateway: nginx from the system, one port before REST servers: those that the settings name, or those
that say that they are up (gateway.py).
"""

import json
import os
import pwd
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from anabranch.errors import MisuseError
from jobs.servers.server import CONF, Server, ServerError, accepts
from jobs.wiring.sections import ServerSettings
from jobs.wiring.settings import ROOT, Settings
from serving.settings import is_loopback, network_place

GIVEN = "given.json"
"""What the gateway's process is started with, in its folder."""
_BACK = "\n".join(f"        server unix:back.sock{more};" for more in (" max_fails=0",) * 2 + (" backup",))
"""The nginx behind this one. It closes connections when it is reloaded, so a request is tried again."""


def nginx_server(settings: Settings) -> Server:
    """The gateway's one process group."""
    servers, home = settings.servers, settings.data / "nginx"
    return Server(
        name="nginx",
        port=servers.nginx_port,
        ports={"nginx_port": servers.nginx_port},
        home=home,
        command=lambda: _command(settings, home),
        prepare=lambda: _prepare(settings, home),
        ready=lambda: accepts(servers.nginx_port, servers.nginx_host),
        host=servers.nginx_host,
    )


def configuration(settings: Settings) -> str:
    """The text of nginx.conf for these settings.

    Raises MisuseError for a certificate without a key (or a key without one), and for a gateway beyond
    loopback that lacks TLS or authentication.
    """
    servers, serving = settings.servers, settings.serving
    certificate, key = servers.nginx_tls_certificate, servers.nginx_tls_key
    if bool(certificate) != bool(key):
        raise MisuseError(
            "servers.nginx_tls_certificate and servers.nginx_tls_key belong together: "
            "name both files, or neither"
        )
    _check_exposure(servers, authenticated=serving.auth == "on")
    tls = [
        f"ssl_certificate {(ROOT / certificate).resolve()};",
        f"ssl_certificate_key {(ROOT / key).resolve()};",
        "ssl_protocols TLSv1.2 TLSv1.3;",
    ]
    values = {
        # Workers of an nginx that runs as root would become nobody, who may not read this folder.
        "user": user_line(),
        "rate": servers.nginx_rate,
        "address_rate": servers.nginx_address_rate,
        "upstreams": upstream_lines(servers.nginx_upstreams) if servers.nginx_upstreams else _BACK,
        "listen": f"{network_place(servers.nginx_host, servers.nginx_port)}{' ssl' if certificate else ''}",
        "tls": "\n".join(f"        {line}" for line in tls) if certificate else "",
        "body_bytes": serving.body_bytes,
        "patience": int(serving.bus_timeout_seconds) + 5,
    }
    return filled("nginx.conf", values)


def user_line() -> str:
    """The user of nginx's workers; those of an nginx that runs as root would be nobody."""
    return f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""


def upstream_lines(places: Iterable[str]) -> str:
    """Lines of an `upstream` block; a REST server that failed is left out for a second, then tried again."""
    return "\n".join(f"        server {place} max_fails=1 fail_timeout=1s;" for place in places)


def filled(template: str, values: Mapping[str, object]) -> str:
    """A file of conf/nginx; `$name` is a variable of nginx itself, so ours are written `@{name}`."""
    text = (CONF / "nginx" / template).read_text(encoding="utf-8")
    return re.sub(r"@\{([a-z_]+)\}", lambda match: str(values[match[1]]), text)


def nginx_command(home: Path, file: str) -> list[str]:
    """The command of an nginx in the foreground, whose files lie in `home`."""
    return [_program(), "-p", str(home), "-c", str(home / file), "-e", "stderr", "-g", "daemon off;"]


def _check_exposure(servers: ServerSettings, *, authenticated: bool) -> None:
    if is_loopback(servers.nginx_host):
        return
    needed = (("TLS", bool(servers.nginx_tls_certificate)), ("authentication", authenticated))
    lacking = [name for name, present in needed if not present]
    if lacking:
        raise MisuseError(
            f"servers.nginx_host {servers.nginx_host} can be reached by others, and the gateway has "
            f"no {' and no '.join(lacking)}: set servers.nginx_tls_certificate and "
            'servers.nginx_tls_key, and serving.auth = "on" for the REST servers, or keep to 127.0.0.1'
        )


def _command(settings: Settings, home: Path) -> list[str]:
    if settings.servers.nginx_upstreams:
        return nginx_command(home, "nginx.conf")
    _program()  # raises before anything is started
    return [sys.executable, "-m", "jobs.servers.gateway", str(home)]


def _prepare(settings: Settings, home: Path) -> None:
    (home / "nginx.conf").write_text(configuration(settings), encoding="utf-8")
    if settings.servers.nginx_upstreams:
        return
    serving, servers = settings.serving, settings.servers
    given = {
        "views": asdict(settings.views),
        "place": network_place(servers.nginx_host, servers.nginx_port),
        "body_bytes": serving.body_bytes,
        "patience": int(serving.bus_timeout_seconds) + 5,
    }
    file = home / GIVEN
    file.unlink(missing_ok=True)
    # It may hold a password: nobody else can read it, and the gateway removes it when it has.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        json.dump(given, output)


def _program() -> str:
    # Debian keeps nginx where only root looks for programs.
    usual = (Path("/usr/sbin/nginx"), Path("/usr/local/sbin/nginx"))
    program = shutil.which("nginx") or next((str(path) for path in usual if path.exists()), None)
    if program is None:
        raise ServerError("nginx is not found: install it (Debian: nginx-light) and put it on the PATH")
    return program
