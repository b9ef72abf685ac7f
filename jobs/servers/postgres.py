"""The embedded PostgreSQL: a database for MLflow, and one for Airflow.

data/postgres/cluster/    PostgreSQL's own folder
data/postgres/passwords   a password file as PostgreSQL's clients read it, with a generated password a role

PostgreSQL refuses to run as root. Started by root, it runs as the user `postgres` where there is one, else as
`nobody`, and the password file stays root's.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.servers.server import Server, ServerError
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import ROOT, Settings, password_file

DATABASES = ("mlflow", "airflow")
"""The databases, each of which belongs to a role of its own name."""
ADMINISTRATOR = "anabranch"
"""The role that may do everything."""
FETCHED = ROOT / ".anabranch" / "programs" / "postgres"
"""Where `make setup WITH=postgres` puts PostgreSQL's programs."""
_NEEDED = ("initdb", "postgres", "pg_isready")
_DEBIAN = Path("/usr/lib/postgresql")


def postgres_server(settings: Settings) -> Server:
    """PostgreSQL's one process, which starts the others."""
    servers, home = settings.servers, settings.data / "postgres"
    return Server(
        name="postgres",
        port=servers.postgres_port,
        ports={"postgres_port": servers.postgres_port},
        home=home,
        command=lambda: _command(servers.postgres_port, servers.postgres_memory, home),
        prepare=lambda: _prepare(settings, home),
        ready=lambda: _answers(servers.postgres_port),
        stop_signal=signal.SIGINT,  # at SIGTERM it would wait for its clients to leave
    )


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; raises ServerError when there is no PostgreSQL."""
    folders = [
        *FETCHED.glob("*/pginstall18/bin"),
        *(Path(folder) for folder in os.get_exec_path()),
        # Debian keeps them apart, by version.
        *sorted(_DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True),
    ]
    for folder in folders:
        if all((folder / each).exists() for each in _NEEDED) and (folder / name).exists():
            return str(folder / name)
    raise ServerError(
        "PostgreSQL is not found: run 'make setup WITH=postgres', which fetches it (25 MB), or install it "
        "(Debian: postgresql)"
    )


def _command(port: int, memory: str, home: Path) -> list[str]:
    options = {
        "listen_addresses": LOOPBACK,
        "port": port,
        "unix_socket_directories": "",
        "shared_buffers": f"{memory.upper()}B",
        "max_connections": 100,
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    given = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return [*_as_nobody(home), program("postgres"), "-D", str(home / "cluster"), *given]


def _prepare(settings: Settings, home: Path) -> None:
    """Make the cluster, its roles and databases once; a run that was killed meanwhile begins anew."""
    cluster, draft, passwords = home / "cluster", home / "cluster.new", password_file(settings.data)
    if cluster.exists():
        return
    home.chmod(0o711)  # the user who runs PostgreSQL passes through
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    owner = _owner()
    if owner is not None:
        os.chown(draft, owner.pw_uid, owner.pw_gid)
    chosen = {role: secrets.token_urlsafe(24) for role in (ADMINISTRATOR, *DATABASES)}
    lines = [f"{LOOPBACK}:*:*:{role}:{secret}\n" for role, secret in chosen.items()]
    _write_secret(passwords, "".join(lines), None)
    first = home / "password"
    _write_secret(first, chosen[ADMINISTRATOR], owner)
    form = ["--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", "--no-instructions"]
    form += [f"--username={ADMINISTRATOR}", f"--pwfile={first}"]
    try:
        _run([*_as_nobody(home), program("initdb"), *form, "-D", str(draft)], "", home)
    finally:
        first.unlink()
    _run(
        [*_as_nobody(home), program("postgres"), "--single", "-D", str(draft), "postgres"],
        _roles(chosen),
        home,
    )
    draft.rename(cluster)


def _write_secret(file: Path, text: str, owner: pwd.struct_passwd | None) -> None:
    """Write a file that nobody but its owner, by default the present user, can read."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
        if owner is not None:
            os.chown(file, owner.pw_uid, owner.pw_gid)


def _roles(chosen: Mapping[str, str]) -> str:
    """The statements that give each role its password, and each database its role."""
    lines = []
    for name in DATABASES:
        lines.append(f"CREATE ROLE {name} LOGIN PASSWORD '{chosen[name]}'")
        lines.append(f"CREATE DATABASE {name} OWNER {name}")
        lines.append(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    return "\n".join(lines) + "\n"


def _run(command: Sequence[str], text: str, home: Path) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=home)
    # A single-user server reports a statement that failed on standard error, and goes on.
    if done.returncode != 0 or "ERROR:" in done.stderr:
        output = " ".join(line for line in done.stderr.splitlines() if "PASSWORD" not in line)
        raise ServerError(f"the storage of postgres cannot be made in {home}: {output[-600:]}")


def _owner() -> pwd.struct_passwd | None:
    """The user who runs PostgreSQL where this process is root's; None for the present user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerError("PostgreSQL cannot run as root, and there is no user 'postgres' or 'nobody': add one")


def _as_nobody(home: Path) -> list[str]:
    """The words before a command that run it as another user where this process is root's.

    Raises ServerError when that user cannot enter the folder.
    """
    owner = _owner()
    if owner is None:
        return []
    closed = [folder for folder in home.parents if folder.exists() and not folder.stat().st_mode & 0o001]
    if closed:
        raise ServerError(
            f"PostgreSQL runs as {owner.pw_name!r} here, as root may not run it, and that user cannot enter "
            f"{closed[-1]}: 'chmod o+x {closed[-1]}', set paths.data to another folder, or be another user"
        )
    return [
        "setpriv",
        f"--reuid={owner.pw_uid}",
        f"--regid={owner.pw_gid}",
        "--clear-groups",
        "--no-new-privs",
    ]


def _answers(port: int) -> bool:
    asked = [
        program("pg_isready"),
        "-q",
        "-h",
        LOOPBACK,
        "-p",
        str(port),
        "-d",
        "postgres",
        "-U",
        ADMINISTRATOR,
    ]
    return subprocess.run(asked, check=False).returncode == 0
