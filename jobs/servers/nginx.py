"""The gateway: nginx from the system, one port before the REST servers that the settings name."""

import os
import pwd
import re
import shutil
from pathlib import Path

from anabranch.errors import MisuseError
from jobs.servers.server import CONF, Server, ServerError, accepts
from jobs.wiring.sections import ServerSettings
from jobs.wiring.settings import ROOT, Settings
from serving.settings import is_loopback, network_place


def nginx_server(settings: Settings) -> Server:
    """The gateway's one process group."""
    servers, home = settings.servers, settings.data / "nginx"
    file = home / "nginx.conf"
    options = ["-p", str(home), "-c", str(file), "-e", "stderr", "-g", "daemon off;"]
    return Server(
        name="nginx",
        port=servers.nginx_port,
        ports={"nginx_port": servers.nginx_port},
        home=home,
        command=lambda: [_program(), *options],
        prepare=lambda: _prepare(settings, file),
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
    # A REST server that failed is left out for a second, then tried again.
    limits = "max_fails=1 fail_timeout=1s"
    upstreams = [f"server {address} {limits};" for address in servers.nginx_upstreams]
    values = {
        # Workers of an nginx that runs as root would become nobody, who may not read this folder.
        "user": f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
        "rate": servers.nginx_rate,
        "address_rate": servers.nginx_address_rate,
        "upstreams": "\n".join(f"        {line}" for line in upstreams),
        "listen": f"{network_place(servers.nginx_host, servers.nginx_port)}{' ssl' if certificate else ''}",
        "tls": "\n".join(f"        {line}" for line in tls) if certificate else "",
        "body_bytes": serving.body_bytes,
        "patience": int(serving.bus_timeout_seconds) + 5,
    }
    text = (CONF / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    # `$name` is a variable of nginx itself, so ours are written `@{name}`.
    return re.sub(r"@\{([a-z_]+)\}", lambda match: str(values[match[1]]), text)


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


def _prepare(settings: Settings, file: Path) -> None:
    file.write_text(configuration(settings), encoding="utf-8")


def _program() -> str:
    # Debian keeps nginx where only root looks for programs.
    usual = (Path("/usr/sbin/nginx"), Path("/usr/local/sbin/nginx"))
    program = shutil.which("nginx") or next((str(path) for path in usual if path.exists()), None)
    if program is None:
        raise ServerError("nginx is not found: install it (Debian: nginx-light) and put it on the PATH")
    return program
