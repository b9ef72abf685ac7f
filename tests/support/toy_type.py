"""A type that Anabranch does not have, as a user would add it: years, written ``Y2024``."""

import re
from typing import Any

import numpy as np
import pyarrow as pa

from anabranch.values.datatype import DataType, JsonSchema


class YearType(DataType):
    """Years, written as Y and four digits; a whole number inside."""

    name = "YEAR"
    aliases = ("VINTAGE",)
    integral = True
    cql = "smallint"
    example = "Y2024"
    hint = "Y and four digits, such as Y2024"
    state_array = np.int32

    @property
    def spark(self) -> str:
        return "INT"

    @property
    def arrow(self) -> pa.DataType:
        return pa.int32()

    def cell_sql(self, text: str) -> str:
        return rf"try_cast(regexp_extract({text}, r'^\s*Y(\d\d\d\d)\s*$', 1) AS INT)"

    def reads(self, value: object) -> bool:
        return isinstance(value, str) and bool(re.fullmatch(r"\s*Y\d{4}\s*", value))

    def value(self, raw: Any) -> Any:
        return int(raw.strip()[1:]) if isinstance(raw, str) else super().value(raw)

    def to_json(self, value: Any) -> Any:
        return None if value is None else f"Y{self.value(value)}"

    @property
    def json_schema(self) -> JsonSchema:
        return {"type": "string", "pattern": r"^Y\d{4}$"}
