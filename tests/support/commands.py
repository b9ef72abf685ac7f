"""Commands of tests, as processes of their own beside the servers of the run."""

from jobs.wiring.settings import Settings

_INTERPRETED = "spark.sql.codegen.wholeStage=false,spark.sql.codegen.factoryMode=NO_CODEGEN"
"""As in the tests' session: a process of a minute compiles its queries for longer than it runs them."""


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings of the run as variables; `os.environ` comes beside them."""
    ours = settings.servers
    return {
        "ANABRANCH__PATHS__DATA": str(settings.data),
        "ANABRANCH__PATHS__JARS": str(settings.jars),
        "ANABRANCH__SERVERS__NODES": str(ours.nodes),
        "ANABRANCH__SERVERS__KAFKA_PORT": str(ours.kafka_port),
        "ANABRANCH__SERVERS__CASSANDRA_PORT": str(ours.cassandra_port),
        "ANABRANCH__TIME__SLOT": f"{settings.times.slot_seconds}s",
        "ANABRANCH__SPARK__SHUFFLE_PARTITIONS": "2",
        "ANABRANCH__SPARK__CONF": _INTERPRETED,
    }
