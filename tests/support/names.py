"""Names that users' columns may have and that could meet something of ours, of SQL or of a store."""

import ast
import re

from jobs.wiring.settings import ROOT

ODD = (
    "end", "order", "select", "user", "current_date", "session_user", "null", "true", "interval", "window",
    "token", "primary key", "Unit Price (EUR)", "a.b", "a.b.c", "flight-number", "it's", "50%", "%20",
    "a%20b", "q=1", "a,b", "x;y", "{curly}", "[square]", "<angle>", "back\\slash", "slash/slash", "#hash",
    "$dollar", "@at", "tab?", "über", "Größe", "日本語", "emoji 😀", "naïve", "1st", "007", "*", "?",
    "Upper", "x y  z", "a:b", "n!", "-", "--", "/*", "*/",
)  # fmt: skip
"""Names with SQL's words, upper case, dashes, quotes, dots, spaces, signs and letters beyond ASCII."""
ONCE_OURS = (
    "event_micros", "reference_micros", "start", "tile_start", "events", "state", "extra", "slot", "piece",
    "one", "done", "p0",
)  # fmt: skip
"""Names that columns of ours had beside those of users, and those of lambdas and fields in our SQL."""
_OURS = ("anabranch/events", "anabranch/folds", "anabranch/states", "anabranch/stores/lake", "speed")
_CALLS = {
    "alias", "withColumn", "withColumns", "select", "groupBy", "agg", "drop", "col", "where", "column",
    "sort", "orderBy", "repartition", "sortWithinPartitions", "partitionBy", "get", "max", "min", "count",
}  # fmt: skip


def internal_names() -> list[str]:
    """Words in the texts with which our own code names columns of frames, Arrow batches and tables."""
    found: set[str] = set()
    for path in [path for folder in _OURS for path in (ROOT / folder).rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if re.search(r"pyspark|pyarrow|cassandra", text):
            found.update(*map(_named, ast.walk(ast.parse(text))))
    return sorted(found)


def _named(node: ast.AST) -> set[str]:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CALLS):
        return set()
    texts = [part for argument in node.args for part in ast.walk(argument)]
    words = [one.value for one in texts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return {word for word in words if re.fullmatch(r"[a-z]\w*", word)}
