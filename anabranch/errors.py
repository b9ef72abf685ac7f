"""Errors that users may meet. Each text says what is wrong and where, what was expected, and what to do."""

import logging
import re

_IN_ADDRESS = re.compile(r"(://[^\s/:@]*):[^\s/]*@")
_BY_NAME = re.compile(r"(?i)\b(passw(?:or)?d|pwd|secret|token|access_key|secret_key)=[^\s&;,'\"]+")


def without_secrets(text: str) -> str:
    """The text without passwords: those of addresses (`://user:password@`) and of `password=...`."""
    return _BY_NAME.sub(r"\1=***", _IN_ADDRESS.sub(r"\1:***@", text))


class SecretlessFormatter(logging.Formatter):
    """Formats log records, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return without_secrets(super().format(record))


class AnabranchError(Exception):
    """Root of every error that Anabranch raises on purpose; its text is written for users.

    Whatever text it is made of, it has no secrets: errors are shown to callers, logged and stored.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(each) if isinstance(each, str) else each for each in args))


class MisuseError(AnabranchError):
    """The request itself is wrong, such as an unknown name or a bad option: nothing was started."""

    exit_code = 2


class DeclarationError(MisuseError):
    """A project's declaration contradicts itself or its schemas."""


class UnknownProjectError(MisuseError):
    """No declaration of that name was found."""


class EventError(AnabranchError):
    """One event cannot be used: it has no key, no time, or a value of the wrong type."""


class TooLargeError(EventError):
    """One event is larger than its topic takes."""


class UnavailableError(AnabranchError):
    """A server does not answer."""


class ViewUnavailableError(UnavailableError):
    """The data of one view is missing, while the server and other views work."""
