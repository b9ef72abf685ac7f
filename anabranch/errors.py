"""The one family of errors a user may meet: one sentence saying what and which, what was expected, what to do."""


class AnabranchError(Exception):
    """Root of every error Anabranch raises on purpose; its text is fit for a user to read."""

    exit_code = 1


class MisuseError(AnabranchError):
    """The request itself is wrong (an unknown name, a bad option): nothing was started."""

    exit_code = 2


class DeclarationError(MisuseError):
    """A project's declaration contradicts itself or its schemas."""


class UnknownProjectError(MisuseError):
    """No declaration of that name was found."""


class EventError(AnabranchError):
    """A single event is unusable: no key, no time, or a value of the wrong type."""


class UnavailableError(AnabranchError):
    """A server that is needed does not answer."""


class ViewUnavailableError(UnavailableError):
    """What a view keeps is not there; the server that says so is well, and so are other views."""
