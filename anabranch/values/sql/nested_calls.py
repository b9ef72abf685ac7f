"""Parts of nested values in SQL expressions, and calls of functions of arrays and maps."""

from typing import TYPE_CHECKING

from anabranch.values.names import folded, quoted
from anabranch.values.sql.arguments import Handlers, argument, array_of, single_items
from anabranch.values.sql.terms import Term, plain
from anabranch.values.types import BIGINT, BOOLEAN, INT, STRING, ArrayType, MapType, StructType

if TYPE_CHECKING:
    from anabranch.values.sql.operators import Compiler


def part_of(compiler: "Compiler", whole: Term, name: str) -> Term:
    """The field of a STRUCT, or of every STRUCT of an array, as Spark reads ``whole.name``."""
    kind = whole.type.inner if isinstance(whole.type, ArrayType) else whole.type
    if not isinstance(kind, StructType):
        hint = f": write ['{name}'] after it" if isinstance(kind, MapType) else ""
        raise compiler.error(f"takes the field {name!r} of {whole.type}, which has no fields{hint}")
    for field, inner in kind.fields:
        if folded(field) == folded(name):
            found = ArrayType(inner) if isinstance(whole.type, ArrayType) else inner
            return Term(f"({whole.sql}).{quoted(field)}", found)
    known = ", ".join(field for field, _ in kind.fields)
    raise compiler.error(f"takes the field {name!r} of a STRUCT that has {known}")


def _array(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    found = compiler.together(terms, "array")
    if found[0].type is None or found[0].type.nested:
        raise compiler.error("makes an array of no values or of nested ones")
    return Term(f"array({', '.join(term.sql for term in found)})", ArrayType(found[0].type))


def _size(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    if not isinstance(terms[0].type, ArrayType | MapType):
        raise compiler.error(f"calls {name} with {terms[0].type}, not with an array or a map")
    return Term(f"{name}({terms[0].sql})", INT)


def _item(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    if isinstance(terms[0].type, MapType) and name == "element_at":
        key = argument(compiler, name, "STRING", terms[1])
        return Term(f"try_element_at({terms[0].sql}, {key.sql})", plain(terms[0].type.inner))
    array, inner = array_of(compiler, name, terms)
    place = argument(compiler, name, "INT", terms[1]).sql
    if name == "get":
        return Term(f"get({array.sql}, {place})", inner)
    return Term(f"try_element_at({array.sql}, nullif(nullif({place}, 0), -2147483648))", inner)


def _search(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    array, inner = array_of(compiler, name, terms)
    single_items(compiler, name, inner)
    value = compiler.as_type(terms[1], inner, name)
    return Term(f"{name}({array.sql}, {value.sql})", BOOLEAN if name == "array_contains" else BIGINT)


def _of_items(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    array, inner = array_of(compiler, name, terms)
    single_items(compiler, name, inner)
    return Term(f"{name}({array.sql})", array.type if name in ("array_distinct", "sort_array") else inner)


def _of_map(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    kind = terms[0].type
    if not isinstance(kind, MapType):
        raise compiler.error(f"calls {name} with {kind}, not with a map")
    if name == "map_contains_key":
        key = argument(compiler, name, "STRING", terms[1]).sql
        # Spark takes no NULL for a key.
        return Term(f"CASE WHEN {key} IS NOT NULL THEN map_contains_key({terms[0].sql}, {key}) END", BOOLEAN)
    return Term(f"{name}({terms[0].sql})", ArrayType(STRING if name == "map_keys" else plain(kind.inner)))


NESTED_CALLS: Handlers = {
    "array": (1, 1000, _array),
    **dict.fromkeys(("size", "cardinality"), (1, 1, _size)),
    **dict.fromkeys(("get", "element_at"), (2, 2, _item)),
    **dict.fromkeys(("array_contains", "array_position"), (2, 2, _search)),
    **dict.fromkeys(("array_distinct", "sort_array", "array_min", "array_max"), (1, 1, _of_items)),
    **dict.fromkeys(("map_keys", "map_values"), (1, 1, _of_map)),
    "map_contains_key": (2, 2, _of_map),
}
