"""HTML as values: text is escaped unless it is markup already, so that nothing stored can become a part of a page."""

from html import escape
from urllib.parse import quote


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = object
"""What goes between tags: markup as it is, None not at all, all else escaped."""


def inside(content: Content) -> Markup:
    """`content` as markup; lists and tuples one after the other."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, list | tuple):
        return Markup("".join(inside(one) for one in content))
    return Markup(escape(str(content)))


def tag(element: str, /, *content: Content, **attributes: object) -> Markup:
    """An element. Attributes: None is left out, `class_` is class, `stroke_width` is stroke-width."""
    said = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for attribute, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{element}{said}>{inside(content)}</{element}>")


def link(address: str, *content: Content) -> Markup:
    """A link to an address of this server."""
    return tag("a", *content, href=address)


def path(*parts: str) -> str:
    """An address of this server from parts that may hold anything."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def table(
    heads: tuple[str, ...],
    rows: list[tuple[Content, ...]],
    *,
    caption: str = "",
    numbers: tuple[int, ...] = (),
) -> Markup:
    """A table whose first column names the row; columns in `numbers` stand to the right. It scrolls by itself where it is too wide."""
    head = tag(
        "tr",
        [
            tag("th", name, scope="col", class_="number" if at in numbers else None)
            for at, name in enumerate(heads)
        ],
    )
    body = [
        tag("tr", [_cell(at, value, numbers) for at, value in enumerate(row)])
        for row in rows
    ]  # fmt: skip
    told = tag("caption", caption) if caption else None
    return tag(
        "div",
        tag("table", told, tag("thead", head), tag("tbody", body)),
        class_="scroll",
        tabindex="0",
        role="group",
        aria_label=caption or "table",
    )


def _cell(at: int, value: Content, numbers: tuple[int, ...]) -> Markup:
    return (
        tag("th", value, scope="row")
        if at == 0
        else tag("td", value, class_="number" if at in numbers else None)
    )


def facts(pairs: list[tuple[str, Content]]) -> Markup:
    """Names and what they are."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


def section(title: str, *content: Content, name: str) -> Markup:
    """A part of a page, with an anchor."""
    return tag("section", tag("h2", title, id=name), *content, aria_labelledby=name)


def document(title: str, body: Content, *, style: str, trail: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A whole page: `style` is the address of its style sheet, `trail` the pages above it."""
    crumbs = [tag("li", link(address, name)) for address, name in trail]
    places = (("OpenAPI", "/docs"), ("JSON", "/v1/projects"), ("Readiness", "/readyz"))
    head = tag(
        "nav",
        tag("ol", tag("li", link("/", tag("b", "Anabranch"))), crumbs),
        tag("ul", [tag("li", link(to, name)) for name, to in places]),
        aria_label="Places",
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="{escape(style)}"></head><body><header>{head}</header><main>{inside(body)}</main></body></html>'
    ).encode("utf-8", "replace")
