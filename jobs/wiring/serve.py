"""The REST server over the real stores, in the foreground until SIGTERM or Ctrl-C. Needs no JVM."""

import logging
import shutil
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from anabranch.errors import MisuseError, SecretlessFormatter
from jobs.wiring.settings import ROOT, Settings, load_settings
from serving.api.context import ServingContext
from serving.app import Application, create_app
from serving.http.access import Access, Issuer
from serving.registration import Leaving, Registration
from serving.server import run
from serving.settings import place_of
from serving.tracing import check as check_tracing

if TYPE_CHECKING:
    from anabranch.stores.cassandra.reads import Reader
    from anabranch.stores.ignite.shared_parts import SharedParts


def serve(settings: Settings) -> None:
    """Run the REST server over the real stores; raises UnavailableError when its port is taken."""
    check_tracing(settings.serving)
    if settings.serving.auth == "on":
        _access(settings)  # raises before any worker is started
    if settings.serving.cache == "ignite":
        from anabranch.stores.ignite.shared_parts import require_client

        require_client()
    if settings.serving.workers > 1:
        shared = settings.data / "run" / f"rest-{settings.serving.port}"
        shutil.rmtree(shared, ignore_errors=True)
        settings = replace(settings, serving=replace(settings.serving, shared=shared))
    run(settings.serving, partial(_registered, settings), partial(print, flush=True))


def _registered(settings: Settings, leaving: Leaving) -> Application:
    """The application, which lets gateways know that it is up."""
    from anabranch.stores.cassandra.replicas import Replicas

    application = build(settings)
    place = place_of(settings.serving)
    application.joins = Registration(Replicas(settings.views), place, application.state, leaving).start
    return application


def build(settings: Settings) -> Application:
    """The application over the real stores; each worker calls it: connections do not survive a fork."""
    from anabranch.answers.features import Answers
    from anabranch.answers.parts import Parts
    from anabranch.stores.opened import Stores
    from anabranch.values.times import now_micros

    _log_to_stderr()
    stores = Stores(settings, _no_session)
    answers = Answers(
        stores.views,
        parts=Parts(settings.serving.cache_bytes),
        timeout=settings.serving.store_timeout_seconds,
        shared=_shared(settings),
        reader=_reader(settings),
    )
    context = ServingContext(
        folders=tuple(settings.projects),
        stores=stores,
        answers=answers,
        settings=settings.serving,
        clock=now_micros,
        access=_access(settings) if settings.serving.auth == "on" else None,
    )
    return create_app(context)


def _no_session() -> NoReturn:
    raise MisuseError("the REST server has no Spark session: do this in a job")


def _reader(settings: Settings) -> "Reader | None":
    """What answers read states with; None: cassandra-driver, as everywhere else."""
    from anabranch.stores.cassandra.native import NativeReader

    return NativeReader(settings.views) if settings.views.driver == "acsylla" else None


def _shared(settings: Settings) -> "SharedParts | None":
    """The Ignite node through which workers share batch parts; None when the setting is another cache."""
    from anabranch.stores.ignite.shared_parts import SharedParts

    return SharedParts(settings.serving.ignite_address) if settings.serving.cache == "ignite" else None


def _access(settings: Settings) -> Access:
    """API keys of the data folder and the issuer's public keys; raises MisuseError for another file."""
    from anabranch.stores.files.api_keys import ApiKeys
    from anabranch.values.times import now_micros

    public = []
    for name in settings.serving.jwt_public_keys:
        try:
            public.append((ROOT / name).read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError) as error:
            raise MisuseError(
                f"serving.jwt_public_keys: {name} cannot be read ({error}): name PEM files of public keys"
            ) from error
        if "PUBLIC KEY" not in public[-1]:
            raise MisuseError(
                f"serving.jwt_public_keys: {name} holds no public key: "
                "name PEM files that begin with -----BEGIN PUBLIC KEY-----"
            )
    issuer = Issuer(
        public_keys=tuple(public), name=settings.serving.jwt_issuer, audience=settings.serving.jwt_audience
    )
    access = Access(ApiKeys(settings.data / "keys.json").read, issuer, now_micros)
    access.refresh()
    return access


def _log_to_stderr() -> None:
    """Log to stderr; a store that is down is logged once by the server, not often by its driver."""
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(SecretlessFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
    for driver in ("cassandra", "kafka", "librdkafka", "pyignite"):
        logging.getLogger(driver).setLevel(logging.CRITICAL)
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)


if __name__ == "__main__":
    serve(load_settings())
