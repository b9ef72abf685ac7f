"""The pages that are routes: what the OpenAPI document lists, for people."""

from serving.api.about import document
from serving.api.routing import Call, Route
from serving.api.server_parts import ServerParts
from serving.http.messages import Response
from serving.site import docs_page

_HTML = (
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
    ),
    ("x-content-type-options", "nosniff"),
)


async def docs(parts: ServerParts, call: Call) -> Response:
    """The page at /docs."""
    return Response(200, docs_page.docs(document(parts, call.caller)).encode(), _HTML)


PAGES = (
    Route(
        name="docs",
        method="GET",
        path="/docs",
        browser=True,
        handler=docs,
        summary="The OpenAPI document for people",
    ),
)
