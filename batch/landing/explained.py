"""Errors of Spark while a load is read or written, as one sentence. Nothing of such a load is visible."""

import re
import urllib.parse

from anabranch.errors import AnabranchError
from batch.landing.records import ENDLESS

_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "could only be written to 0 of the",
)
_TORN = (
    "Unexpected end of input stream", "EOFException", "ZipException", "incorrect header check",
    "incorrect data check", "invalid block type", "invalid distance", "invalid stored block",
    "is not a Parquet file", "Could not read footer", "ParquetDecodingException", "TProtocolException",
    "can not read class org.apache.parquet", "CORRUPT", "Corrupt", "FAILED_READ_FILE",
)  # fmt: skip
_FILE = re.compile(r"(?:reading file|file[: ]path:?|File) +((?:file:|[a-z0-9]+://)[^\s,]+?)\.?(?:\s|$)")


def explained(error: Exception, load: str) -> AnabranchError:
    """The error for a user; `load` names what was to be landed."""
    text = whole_text(error)
    found = _FILE.search(text)
    file = urllib.parse.unquote(re.sub("^file:/+", "/", found[1])) if found else load
    if any(sign in text for sign in _FULL):
        return AnabranchError(
            f"the disk of the lake is full: nothing of {load} was landed; make room and run it again"
        )
    if any(sign in text for sign in _TORN):
        return AnabranchError(
            f"{file} is torn, it ends too early or is damaged: nothing of {load} was landed; "
            "get the whole file and run it again"
        )
    if ENDLESS in text:
        cut = text.partition(ENDLESS)[2].splitlines()[0]
        return AnabranchError(
            f"{file}: {ENDLESS}{cut}: nothing of {load} was landed; close the quote, or double it"
        )
    if "FileNotFoundException" in text or "FILE_NOT_EXIST" in text:
        return AnabranchError(
            f"{file} went away while it was read: nothing of {load} was landed; run it again"
        )
    return AnabranchError(
        f"{load} could not be landed: {cause(text)}; "
        "nothing of it is visible, run it again when that is put right"
    )


def cause(text: str) -> str:
    """The most telling line of a long error text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("Caused by:")), None) or next(
        (line for line in lines if "Error" in line or "Exception" in line),
        lines[0] if lines else "no reason given",
    )


def whole_text(error: Exception) -> str:
    """The error's text with those of its causes, which Spark's Java side keeps."""
    origin = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    parts = [str(error)]
    while origin is not None and len(parts) < 12:
        parts.append(f"Caused by: {origin.toString()}")
        origin = origin.getCause()
    return "\n".join(parts)
