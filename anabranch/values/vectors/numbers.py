"""Numbers, conditions and choices over vectors, with Spark's meaning of NULL, NaN, zero and overflow.

A vector is a pair: values (n,) or (1,), and which of them are NULL, None for none. Whole numbers are int64,
whatever bits their type has; a value that is NULL is any number. Source of each twin: the class of Spark's
org.apache.spark.sql.catalyst.expressions whose name it has, with ANSI mode and its errors taken for NULL.
"""

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Nulls = NDArray[np.bool_] | None
Vector = tuple[Values, Nulls]
Twin = Callable[..., Vector]

LEAST, MOST = -(1 << 63), (1 << 63) - 1
_SAFE = 1 << 31
_WIDE = Context(prec=400)


def both(left: Nulls, right: Nulls) -> Nulls:
    """NULL where either is."""
    if left is None:
        return right
    return left if right is None else left | right


def joined(nulls: Nulls, wrong: NDArray[np.bool_]) -> Nulls:
    """NULL where it was, and where `wrong`."""
    return both(nulls, wrong) if wrong.any() else nulls


def plain(function: Callable[..., Values]) -> Twin:
    """The twin of a function that is NULL only for NULL."""

    def two(a: Vector, b: Vector) -> Vector:
        return function(a[0], b[0]), both(a[1], b[1])

    return two


def _one(function: Callable[[Values], Values], wrong: Callable[[Values], Any] | None = None) -> Twin:
    """The twin of a function of a DOUBLE, NULL where it is `wrong`."""

    def run(a: Vector) -> Vector:
        return function(a[0]), a[1] if wrong is None else joined(a[1], wrong(a[0]))

    return run


def add(a: Vector, b: Vector) -> Vector:
    """`a + b` of whole numbers."""
    found = a[0] + b[0]
    return found, joined(both(a[1], b[1]), ((a[0] ^ found) & (b[0] ^ found)) < 0)


def subtract(a: Vector, b: Vector) -> Vector:
    """`a - b` of whole numbers."""
    found = a[0] - b[0]
    return found, joined(both(a[1], b[1]), ((a[0] ^ b[0]) & (a[0] ^ found)) < 0)


def multiply(a: Vector, b: Vector) -> Vector:
    """`a * b` of whole numbers."""
    found, nulls = a[0] * b[0], both(a[1], b[1])
    if np.all((a[0] < _SAFE) & (a[0] >= -_SAFE)) and np.all((b[0] < _SAFE) & (b[0] >= -_SAFE)):
        return found, nulls
    nonzero = np.where(a[0] == 0, 1, a[0])
    back = np.where(nonzero == -1, 0, found) // np.where(nonzero == -1, 1, nonzero)
    wrong = np.where(a[0] == -1, b[0] == LEAST, (a[0] != 0) & (back != b[0]))
    wrong |= (a[0] != 0) & (a[0] != -1) & (back * nonzero != found)
    return found, joined(nulls, wrong)


def _divisor(b: Values) -> Values:
    """`b` without zeros, and without -1, by which the least number has no quotient."""
    return np.where((b == 0) | (b == -1), 1, b)


def remainder(a: Vector, b: Vector) -> Vector:
    """`a % b` of whole numbers, with the sign of `a`; NULL for zero."""
    return np.fmod(a[0], _divisor(b[0])), joined(both(a[1], b[1]), b[0] == 0)


def quotient(a: Vector, b: Vector) -> Vector:
    """`a DIV b` of whole numbers, towards zero; NULL for zero."""
    divisor = _divisor(b[0])
    found = (a[0] - np.fmod(a[0], divisor)) // divisor
    found = np.where(b[0] == -1, -a[0], found)
    return found, joined(both(a[1], b[1]), (b[0] == 0) | ((b[0] == -1) & (a[0] == LEAST)))


def remainder_above(a: Vector, b: Vector) -> Vector:
    """pmod of whole numbers."""
    found, nulls = remainder(a, b)
    return np.where(found < 0, np.fmod(found + b[0], _divisor(b[0])), found), nulls


def divide(a: Vector, b: Vector) -> Vector:
    """`a / b` of DOUBLEs; NULL for zero."""
    zero = b[0] == 0
    return (a[0] / b[0], both(a[1], b[1])) if not zero.any() else _divided(a, b, zero)


def _divided(a: Vector, b: Vector, zero: NDArray[np.bool_]) -> Vector:
    return a[0] / np.where(zero, 1.0, b[0]), both(both(a[1], b[1]), zero)


def float_remainder(a: Vector, b: Vector) -> Vector:
    """`a % b` of DOUBLEs; NULL for zero."""
    return np.fmod(a[0], b[0]), joined(both(a[1], b[1]), b[0] == 0)


def float_remainder_above(a: Vector, b: Vector) -> Vector:
    """pmod of DOUBLEs."""
    found, nulls = float_remainder(a, b)
    return np.where(found < 0, np.fmod(found + b[0], b[0]), found), nulls


def _power(a: Values, b: Values) -> Values:
    """Java's pow: NaN where C has 1, for a base of size 1 and an exponent that is infinite or NaN."""
    unlike = ((a == 1) & np.isnan(b)) | ((np.abs(a) == 1) & np.isinf(b))
    return np.where(unlike, np.nan, np.power(a, b))


def _log_to(base: Vector, x: Vector) -> Vector:
    wrong = (base[0] <= 0) | (x[0] <= 0)
    return np.log(x[0]) / np.log(base[0]), joined(both(base[1], x[1]), wrong)


def floor(a: Vector) -> Vector:
    """The largest BIGINT below; the argument is within BIGINT."""
    return np.floor(_known(a)).astype(np.int64), a[1]


def ceil(a: Vector) -> Vector:
    """The smallest BIGINT above; the argument is within BIGINT."""
    return np.ceil(_known(a)).astype(np.int64), a[1]


def _known(a: Vector) -> Values:
    return a[0] if a[1] is None else np.where(a[1], 0, a[0])


def rounded(a: Vector, places: int) -> Vector:
    """A DOUBLE rounded half up in the decimal digits that are shown, as BigDecimal does."""
    values = a[0]
    power = 10.0 ** abs(places)
    scaled = values * power if places >= 0 else values / power
    size = np.abs(scaled)
    whole = np.floor(size)
    share = size - whole
    near = whole + (share > 0.5)
    found = np.copysign(near / power if places >= 0 else near * power, values) + 0.0
    # Near a tie, and where the digits do not fit, the decimal digits decide.
    unsure = ~((np.abs(share - 0.5) > 1e-6 * np.maximum(1, size)) & (size < 1e9)) & np.isfinite(values)
    if abs(places) > 22:
        unsure = np.isfinite(values)
    found = np.where(np.isfinite(values), found, values)
    for place in np.nonzero(unsure)[0].tolist():
        found[place] = _half_up(float(values[place]), places)
    return found, a[1]


def _half_up(value: float, places: int) -> float:
    step = Decimal(1).scaleb(-places)
    return float(Decimal(repr(value)).quantize(step, ROUND_HALF_UP, _WIDE)) + 0.0


def negate(a: Vector) -> Vector:
    """`-a` of a DOUBLE, or of a literal whole number."""
    return -a[0], a[1]


def size_of(a: Vector) -> Vector:
    """abs of a DOUBLE."""
    return np.abs(a[0]), a[1]


def is_nan(a: Vector) -> Vector:
    """Whether a DOUBLE is NaN: false for NULL."""
    found = np.isnan(a[0])
    return (found if a[1] is None else found & ~a[1]), None


def or_when_nan(a: Vector, b: Vector) -> Vector:
    """nanvl."""
    nan = np.isnan(a[0])
    return (a[0], a[1]) if not nan.any() else when((nan, a[1]), b, a, a[1])


def when(test: Vector, then: Vector, otherwise: Vector, nulls: Nulls = None) -> Vector:
    """CASE of one condition; NULL also where `nulls`."""
    holds = test[0] if test[1] is None else test[0] & ~test[1]
    found = np.where(holds, then[0], otherwise[0])
    if then[1] is None and otherwise[1] is None:
        return found, nulls
    none = np.where(holds, _mask(then), _mask(otherwise))
    return found, both(none if none.any() else None, nulls)


def _mask(a: Vector) -> Values:
    return np.zeros(1, np.bool_) if a[1] is None else a[1]


def both_hold(a: Vector, b: Vector) -> Vector:
    """AND: false where either is false, else NULL where either is NULL."""
    found = a[0] & b[0]
    if a[1] is None and b[1] is None:
        return found, None
    no = (~a[0] & ~_mask(a)) | (~b[0] & ~_mask(b))
    return found & ~no, (_mask(a) | _mask(b)) & ~no


def either_holds(a: Vector, b: Vector) -> Vector:
    """OR: true where either is true, else NULL where either is NULL."""
    if a[1] is None and b[1] is None:
        return a[0] | b[0], None
    yes = (a[0] & ~_mask(a)) | (b[0] & ~_mask(b))
    return yes, (_mask(a) | _mask(b)) & ~yes


def opposite(a: Vector) -> Vector:
    """NOT."""
    return ~a[0], a[1]


def is_null(a: Vector) -> Vector:
    """IS NULL."""
    return (np.zeros(len(a[0]), np.bool_) if a[1] is None else a[1]), None


def is_known(a: Vector) -> Vector:
    """IS NOT NULL."""
    return (np.ones(len(a[0]), np.bool_) if a[1] is None else ~a[1]), None


def is_true(a: Vector) -> Vector:
    """IS TRUE."""
    return (a[0] if a[1] is None else a[0] & ~a[1]), None


def is_false(a: Vector) -> Vector:
    """IS FALSE."""
    return (~a[0] if a[1] is None else ~a[0] & ~a[1]), None


def same(a: Vector, b: Vector) -> Vector:
    """`<=>`: NULL equals NULL."""
    equal = a[0] == b[0]
    if a[1] is None and b[1] is None:
        return equal, None
    return np.where(_mask(a) | _mask(b), _mask(a) & _mask(b), equal), None


def among(value: Vector, *listed: Vector) -> Vector:
    """IN."""
    found: Vector = np.equal(value[0], listed[0][0]), both(value[1], listed[0][1])
    for one in listed[1:]:
        found = either_holds(found, (np.equal(value[0], one[0]), both(value[1], one[1])))
    return found


def first_known(*several: Vector) -> Vector:
    """coalesce."""
    found = several[0]
    for one in several[1:]:
        if found[1] is None:
            break
        found = when((~found[1], None), found, one)
    return found


def greatest(*several: Vector) -> Vector:
    """The greatest that is not NULL."""
    return _extreme(np.greater, several)


def least(*several: Vector) -> Vector:
    """The least that is not NULL."""
    return _extreme(np.less, several)


def _extreme(better: Callable[[Values, Values], Values], several: tuple[Vector, ...]) -> Vector:
    found = several[0]
    for one in several[1:]:
        wins = better(one[0], found[0]).astype(np.bool_)
        if found[1] is not None or one[1] is not None:
            wins = (wins & ~_mask(one) & ~_mask(found)) | (_mask(found) & ~_mask(one))
        found = when((wins, None), one, found)
    return found


def to_int(a: Vector) -> Vector:
    """A whole number as INT."""
    return a[0], joined(a[1], (a[0] < -_SAFE) | (a[0] >= _SAFE))


def to_double(a: Vector) -> Vector:
    """A whole number or a BOOLEAN as DOUBLE."""
    return a[0].astype(np.float64), a[1]


def to_whole(a: Vector) -> Vector:
    """A BOOLEAN as 0 or 1."""
    return a[0].astype(np.int64), a[1]


def is_not_zero(a: Vector) -> Vector:
    """A number as BOOLEAN."""
    return a[0] != 0, a[1]


def double_to_bigint(a: Vector) -> Vector:
    """A DOUBLE as BIGINT, towards zero."""
    return _towards_zero(a, -(2.0**63), 2.0**63)


def double_to_int(a: Vector) -> Vector:
    """A DOUBLE as INT, towards zero."""
    return _towards_zero(a, -(2.0**31) - 1, 2.0**31, outside=True)


def _towards_zero(a: Vector, low: float, high: float, *, outside: bool = False) -> Vector:
    values = a[0]
    good = (values > low) & (values < high) if outside else (values >= low) & (values <= high)
    kept = np.where(good, values, 0.0)
    found = np.where(kept >= 2.0**63, MOST, np.where(kept >= 2.0**63, 0.0, kept).astype(np.int64))
    return found, joined(a[1], ~good)


NUMBERS: dict[str, Twin] = {
    "add": add,
    "subtract": subtract,
    "multiply": multiply,
    "remainder": remainder,
    "quotient": quotient,
    "remainder_above": remainder_above,
    "add_double": plain(np.add),
    "subtract_double": plain(np.subtract),
    "multiply_double": plain(np.multiply),
    "divide": divide,
    "float_remainder": float_remainder,
    "float_remainder_above": float_remainder_above,
    "negate": negate,
    "abs": size_of,
    "floor": floor,
    "ceil": ceil,
    "round": rounded,
    "sqrt": _one(np.sqrt),
    "cbrt": _one(np.cbrt),
    "exp": _one(np.exp),
    "expm1": _one(np.expm1),
    "ln": _one(np.log, lambda x: x <= 0),
    "log10": _one(np.log10, lambda x: x <= 0),
    "log2": _one(lambda x: np.log(x) / math.log(2), lambda x: x <= 0),
    "log1p": _one(np.log1p, lambda x: x <= -1),
    "log": _log_to,
    "pow": plain(_power),
    "sign": _one(np.sign),
    "rint": _one(np.rint),
    "is_nan": is_nan,
    "nanvl": or_when_nan,
    "when": when,
    "and": both_hold,
    "or": either_holds,
    "not": opposite,
    "is_null": is_null,
    "is_known": is_known,
    "is_true": is_true,
    "is_false": is_false,
    "same": same,
    "equal": plain(np.equal),
    "unequal": plain(np.not_equal),
    "below": plain(np.less),
    "at_most": plain(np.less_equal),
    "above": plain(np.greater),
    "at_least": plain(np.greater_equal),
    "among": among,
    "coalesce": first_known,
    "greatest": greatest,
    "least": least,
    "to_int": to_int,
    "to_double": to_double,
    "to_whole": to_whole,
    "is_not_zero": is_not_zero,
    "double_to_bigint": double_to_bigint,
    "double_to_int": double_to_int,
}
"""Twins by the names that programs call them by; each is called with vectors, `round` also with places."""
