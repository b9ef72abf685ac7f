"""Random expressions of the subset that is evaluated without a JVM, over the schema of expressions.py."""

import random

_COLUMNS = {
    "WHOLE": ["t", "s", "n", "big", "0", "-1", "7", "9223372036854775807", "CAST(NULL AS BIGINT)"],
    "DOUBLE": ["f", "x", "y", "dec", "wide", "n", "2.5", "-0.5", "1e300", "0", "CAST(NULL AS DOUBLE)"],
    "STRING": [
        "name",
        "'a'",
        "''",
        "'ÄÖ'",
        "CAST(n AS STRING)",
        "CAST(flag AS STRING)",
        "CAST(day AS STRING)",
    ],
    "BOOLEAN": ["flag", "TRUE", "CAST(NULL AS BOOLEAN)"],
    "DATE": ["day", "CAST(until AS DATE)", "DATE('2024-02-29')"],
    "TIMESTAMP": ["at", "until", "TIMESTAMP('2024-05-01T12:34:56.789Z')"],
}
_FORMS = {
    "DOUBLE": """{D} / {D};{D} * {D};{D} - {D};{D} + {D};{D} % {D};abs({D});round({D}, 2);round({D});-({D})
        round({D}, -3);nanvl({D}, {D});sign({D});sqrt({D});rint({D});pmod({D}, {D});CAST({W} AS DOUBLE)
        coalesce({D}, {D});greatest({D}, {D}, 1.5);least({D}, {D});nullif({D}, {D});CAST({S} AS DOUBLE)
        if({B}, {D}, {D});CASE WHEN {B} THEN {D} WHEN {B} THEN {D} END;CAST({T} AS DOUBLE);nvl2({D}, {D}, 1)
        CAST({B} AS DOUBLE);zeroifnull({D});{W} / {W};nullifzero({D})""",
    "WHOLE": """{W} * {W};{W} + {W};{W} - {W};{W} % {W};{W} DIV {W};-({W});abs({W});pmod({W}, {W});floor({D})
        ceil({D});CAST({D} AS BIGINT);CAST({D} AS INT);CAST({S} AS BIGINT);CAST({S} AS INT);CAST({B} AS INT)
        length({S});instr({S}, {S});year({A});quarter({A});month({A});day({A});dayofyear({A});weekday({A})
        dayofweek({A});weekofyear({A});hour({T});minute({T});second({T});datediff({A}, {A});unix_date({A})
        unix_micros({T});unix_timestamp({T});unix_seconds({T});unix_millis({T});coalesce({W}, {W})
        nullif({W}, {W})
        greatest({W}, {W});least({W}, 3);CASE {W} WHEN {W} THEN {W} ELSE {W} END;CAST({T} AS BIGINT)
        extract(DOW FROM {A});extract(YEAR FROM {T});CAST({W} AS INT);CAST({T} AS INT)""",
    "BOOLEAN": """{D} > {D};{W} <= {W};{S} < {S};{A} >= {A};{T} <> {T};{D} = {D};{S} = {S};{D} <=> {D}
        {S} <=> {S}
        {B} AND {B};{B} OR {B};NOT ({B});({B}) IS TRUE;({B}) IS NOT FALSE;({D}) IS NULL;({S}) IS NOT NULL
        {D} BETWEEN {D} AND {D};{D} IN ({D}, 1, {D});{S} IN ('a', {S}, NULL);({S}) LIKE 'a%'
        ({S}) LIKE '%a%,_'
        ({S}) ILIKE '%Ä%'
        ({S}) LIKE '%1%0_%' ESCAPE '/';contains({S}, {S});startswith({S}, {S});endswith({S}, {S});isnan({D})
        CAST({D} AS BOOLEAN);CAST({W} AS BOOLEAN);CAST({S} AS BOOLEAN);{B} = {B};equal_null({W}, {W})
        {W} NOT IN (1, {W});isnull({T});isnotnull({S})""",
    "STRING": """concat({S}, {S});lower({S});upper({S});trim({S});ltrim({S});rtrim({S})
        substring({S}, {W8}, {W8})
        substring({S}, {W8});left({S}, {W8});right({S}, {W8});replace({S}, {S}, {S});replace({S}, 'a')
        ({S}) || ({S})
        CAST({W} AS STRING);CAST({A} AS STRING);CAST({T} AS STRING);coalesce({S}, {S});nullif({S}, {S})
        concat_ws({S}, {S}, {S});if({B}, {S}, {S});greatest({S}, {S});btrim({S}, 'a1')
        concat({S}, {W}, {B})""",
    "DATE": """{A} + 1;date_from_unix_date({W8});date_add({A}, {W8});date_sub({A}, {W8});CAST({T} AS DATE)
        last_day({A})
        trunc({A}, 'MM')
        trunc({A}, 'WEEK');{A} + INTERVAL 1 MONTH;{A} - INTERVAL 2 YEAR;{A} + INTERVAL 3 DAY;to_date({S})
        coalesce({A}, {A});if({B}, {A}, {A});trunc({A}, 'QUARTER')""",
    "TIMESTAMP": """{T} + INTERVAL 1 DAY;{T} - INTERVAL 3 HOUR;{T} + INTERVAL 1 MONTH;date_trunc('HOUR', {T})
        date_trunc('WEEK', {T});date_trunc('YEAR', {T});CAST({A} AS TIMESTAMP);CAST({W} AS TIMESTAMP)
        CAST({D} AS TIMESTAMP);timestamp_seconds({D});timestamp_millis({W});timestamp_micros({W})
        to_timestamp({S});coalesce({T}, {T});greatest({T}, {T});date_trunc('QUARTER', {T})""",
}
_AT_THE_TOP = (
    "ln({D});log10({D});log2({D});log1p({D});exp({D});expm1({D});pow({D}, {D});cbrt({D});log({D}, {D})"
)
_LETTERS = {"D": "DOUBLE", "W": "WHOLE", "S": "STRING", "B": "BOOLEAN", "A": "DATE", "T": "TIMESTAMP"}
FORMS = {kind: [form.strip() for form in text.replace("\n", ";").split(";")] for kind, text in _FORMS.items()}
"""Forms by the type that they give."""


class Evaluated:
    """A source of random expressions; equal seeds give equal ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def of(self, kind: str, depth: int) -> str:
        """An expression of a type, of at most so many calls within one another."""
        pick = self._random.choice
        return self.filled(pick(FORMS[kind]), depth - 1) if depth > 0 else pick(_COLUMNS[kind])

    def filled(self, form: str, depth: int) -> str:
        """A form with random expressions in its places."""
        out = form.replace("{W8}", f"CAST({self._random.randint(-9, 9)} AS INT)")
        for letter, kind in _LETTERS.items():
            while f"{{{letter}}}" in out:
                deeper = depth if self._random.random() < 0.6 else 0
                out = out.replace(f"{{{letter}}}", f"({self.of(kind, deeper)})", 1)
        return out

    def any(self, depth: int) -> str:
        """An expression of any type; logarithms and powers, which differ in the last digit, stand alone."""
        if self._random.random() < 0.05:
            return self.filled(self._random.choice(_AT_THE_TOP.split(";")), depth - 1)
        return self.of(self._random.choice(list(_FORMS)), depth)

    def every(self) -> list[str]:
        """Each form once, over columns."""
        forms = [form for forms in FORMS.values() for form in forms]
        return [self.filled(form, 0) for form in (*forms, *_AT_THE_TOP.split(";"))]
