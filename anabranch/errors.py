"""Errors that users may meet. Each text says what is wrong and where, what was expected, and what to do."""


class AnabranchError(Exception):
    """Root of every error that Anabranch raises on purpose; its text is written for users."""

    exit_code = 1


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
