"""The client of a REST server: `Client` for calls that wait, `AsyncClient` for calls that are awaited."""

from anabranch.client.calls import (
    CallError,
    InvalidCallError,
    RefusedError,
    RemotePrediction,
    UnansweredError,
    UnknownError,
)
from anabranch.client.clients import AsyncClient, AsyncRemoteProject, Client, RemoteProject

__all__ = [
    "AsyncClient",
    "AsyncRemoteProject",
    "CallError",
    "Client",
    "InvalidCallError",
    "RefusedError",
    "RemotePrediction",
    "RemoteProject",
    "UnansweredError",
    "UnknownError",
]  # fmt: skip
