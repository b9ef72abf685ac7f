"""Types of the bodies that the protocols of others have."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from anabranch.answers.requests import MOST_INSTANCES
from serving.api.bodies import Explain, declared

Row = Annotated[dict[str, Any], declared("row")]
_Names = Annotated[list[str], Meta(description="Columns of the key, features, columns of the request")]
_Values = Annotated[list[list[Any]], Meta(min_length=1, max_length=MOST_INSTANCES)]
_ByModel = Meta(description="Each row: an object by column, or an array of the features that the model reads")


class ParamsBody(Struct, forbid_unknown_fields=True):
    """Parameters of a request."""

    explain: Explain = None


class SplitBody(Struct, forbid_unknown_fields=True):
    """A table as pandas splits a frame; without columns it has the features that the model reads."""

    data: _Values
    columns: _Names | None = None
    index: list[Any] | None = None


class SplitFrameBody(Struct, forbid_unknown_fields=True):
    """Rows apart from their columns' names."""

    dataframe_split: SplitBody
    params: ParamsBody | None = None


class RecordsFrameBody(Struct, forbid_unknown_fields=True):
    """Rows as objects."""

    dataframe_records: Annotated[list[Row], Meta(min_length=1, max_length=MOST_INSTANCES)]
    params: ParamsBody | None = None


class RowsBody(Struct, forbid_unknown_fields=True):
    """Rows as objects or arrays."""

    instances: Annotated[list[Any], Meta(min_length=1, max_length=MOST_INSTANCES), _ByModel]
    params: ParamsBody | None = None


class ColumnsBody(Struct, forbid_unknown_fields=True):
    """Columns by name, or rows."""

    inputs: Annotated[Any, Meta(description="By column an array of values; or rows, as in instances")]
    params: ParamsBody | None = None


class RowScoreBody(Struct, kw_only=True):
    """The answer for a row. With several classes it also has the probability of each, by its name."""

    score: float | None
    label: Annotated[Any, Meta(description="Null for a model of numbers, and where there is no score")]
    model_version: str | UnsetType = UNSET
    degraded: bool | UnsetType = UNSET
    error: Annotated[str, Meta(description="Why the row has no score")] | UnsetType = UNSET


class InvocationsBody(Struct):
    """Scores in the order of the rows; further members as in an answer of predict."""

    predictions: list[RowScoreBody]


class InvocationProblemBody(Struct):
    """A problem, as MLflow's clients read it."""

    error_code: str
    message: str


Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "BYTES",
]  # fmt: skip
_Name = Annotated[str, Meta(min_length=1)]
_Shape = list[Annotated[int, Meta(ge=1)]]
_Parameters = dict[str, Any]


class TensorBody(Struct, kw_only=True):
    """A column of rows: shape [n] or [n, 1]. A tensor of shape [n, k] alone has all features of the model."""

    name: _Name
    shape: Annotated[_Shape, Meta(min_length=1, max_length=2)]
    datatype: Datatype
    data: Annotated[
        list[Any] | UnsetType, Meta(description="In rows, nested or not; null is missing; absent when binary")
    ] = UNSET
    parameters: _Parameters | UnsetType = UNSET


class WantedOutputBody(Struct, kw_only=True):
    """An output to return."""

    name: _Name
    parameters: _Parameters | UnsetType = UNSET


class InferenceRequestBody(Struct, kw_only=True):
    """Named tensors in; `parameters` may have explain, others are ignored."""

    inputs: Annotated[list[TensorBody], Meta(min_length=1)]
    outputs: Annotated[list[WantedOutputBody], Meta(description="All, where none is named")] | UnsetType = (
        UNSET
    )
    id: str | UnsetType = UNSET
    parameters: _Parameters | UnsetType = UNSET


class OutputTensorBody(Struct, kw_only=True):
    """An output, in rows."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: list[Any]


class InferenceBody(Struct, kw_only=True):
    """Named tensors out."""

    model_name: str
    model_version: str
    outputs: list[OutputTensorBody]
    id: str | UnsetType = UNSET


class InferenceProblemBody(Struct):
    """A problem, as clients of the protocol read it."""

    error: str


class TensorMetadataBody(Struct, kw_only=True):
    """A tensor that a model takes or gives; -1 is the number of rows."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadataBody(Struct, kw_only=True):
    """A project's model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadataBody]
    outputs: list[TensorMetadataBody]


class ModelReadyBody(Struct, kw_only=True):
    """A model that can score."""

    name: str
    ready: bool = True


class ServerMetadataBody(Struct, kw_only=True):
    """This server."""

    name: str
    version: str
    extensions: list[str]


class ServerReadyBody(Struct, kw_only=True):
    """The server can answer."""

    live: bool = True
    ready: bool = True


class ServerLiveBody(Struct, kw_only=True):
    """The process lives."""

    live: bool = True
