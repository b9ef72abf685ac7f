"""The page at /docs: the OpenAPI document for people. One file, no resource from elsewhere, works without a network."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #1769aa; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } summary code { font-size: 1rem; }
b.get { color: #2e7d32; } b.post { color: var(--ink); } b { display: inline-block; width: 3.5rem; }
code, pre, textarea, input { font: 13px/1.45 ui-monospace, monospace; }
pre { background: #8881; padding: .6rem; border-radius: 6px; overflow: auto; max-height: 24rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; }
textarea { width: 100%; min-height: 9rem; box-sizing: border-box; } input { width: 60%; } select { max-width: 100%; }
button { padding: .3rem 1rem; margin: .4rem 0; cursor: pointer; }
"""

_SCRIPT = """
document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, output = form.querySelector("pre"), body = form.querySelector("textarea"), key = form.querySelector("input");
  const path = form.dataset.path.replace("{key}", encodeURIComponent(key ? key.value : ""));
  const credentials = document.querySelector("#credentials"), headers = {};
  if (credentials && credentials.value) headers.authorization = `Bearer ${credentials.value.trim()}`;
  if (body) headers["content-type"] = "application/json";
  // What the browser signed in with opens pages and nothing else: only what was typed here is sent.
  const options = { method: form.dataset.method, headers, credentials: "omit", body: body ? body.value : undefined };
  output.hidden = false;
  output.textContent = "...";
  try {
    const started = performance.now(), response = await fetch(path, options), text = await response.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch (error) { /* not JSON: shown as it is */ }
    output.textContent = `${response.status} ${response.statusText}  ${(performance.now() - started).toFixed(1)} ms\\n${shown}`;
  } catch (error) { output.textContent = `no answer: ${error.message}`; }
});
document.addEventListener("change", (event) => {
  if (event.target.matches("select")) event.target.form.querySelector("textarea").value = event.target.value;
});
"""

_CREDENTIALS = (
    "<p><label>API key or token for what is tried here, kept nowhere: "
    "<input id='credentials' type='password' autocomplete='off' spellcheck='false'></label></p>"
)


def docs(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    body = "".join(
        f"<h2 id='{escape(tag)}'>{escape(tag)}</h2>{''.join(found)}" for tag, found in groups.items()
    )
    links = " · ".join(f"<a href='#{escape(tag)}'>{escape(tag)}</a>" for tag in groups)
    info = document["info"]
    secured = "securitySchemes" in document["components"]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><link rel='icon' href='data:,'><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>"
        f"<p>{links} · <a href='/openapi.json'>openapi.json</a></p>{_CREDENTIALS if secured else ''}{body}<script>{_SCRIPT}</script></body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        _parameters(operation),
        _request(operation),
        _responses(operation),
        _form(path, method, operation),
    ]
    return (
        f"<details><summary><b class='{method}'>{method.upper()}</b> <code>{escape(path)}</code> "
        f"{escape(operation['summary'])}</summary>{''.join(parts)}</details>"
    )


def _parameters(operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(p['name'])}</code></td><td>{escape(p['description'])}</td></tr>"
        for p in operation.get("parameters", ())
    ]
    return f"<h4>In the path</h4><table>{''.join(rows)}</table>" if rows else ""


def _request(operation: dict[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    content = operation["requestBody"]["content"]["application/json"]
    shown = [
        f"<p>{escape(summary)}</p><pre>{escape(_pretty(value))}</pre>"
        for summary, value in _examples(content)
        if summary
    ]
    return f"<h4>Request</h4>{_schema(content['schema'])}{''.join(shown)}"


def _examples(content: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a content is shown with: summaries and values; a single example needs no summary."""
    if "example" in content:
        return [("", content["example"])]
    return [(shown["summary"], shown["value"]) for shown in content.get("examples", {}).values()]


def _responses(operation: dict[str, Any]) -> str:
    found = []
    for status, response in operation["responses"].items():
        content = next(iter(response.get("content", {}).values()), None)
        if content is not None:
            shown = "".join(f"<pre>{escape(_pretty(value))}</pre>" for _, value in _examples(content))
            found.append(f"<h4>Answer {status}</h4>{_schema(content['schema'])}{shown}")
    errors = [status for status, response in operation["responses"].items() if "$ref" in response]
    if errors:
        found.append(f"<p>Problems: {', '.join(errors)}</p>")
    return "".join(found)


def _schema(schema: dict[str, Any], known: Sequence[dict[str, Any]] = ()) -> str:
    """What a value may be: a table of an object's members, whose own members have tables too. What is `known` is not shown again."""
    if schema in known:
        return "<p>as above</p>"
    if "oneOf" in schema:
        choices = schema["oneOf"]
        return "<p><b>or</b></p>".join(
            _choice(choice, [*known, *choices[:place]]) for place, choice in enumerate(choices)
        )
    if schema.get("type") == "array":
        return _schema(schema["items"], known)
    required = set(schema.get("required", ()))
    rows = []
    for name, member in schema.get("properties", {}).items():
        kind = _kind(member) + ("" if name in required else " <i>may be left out</i>" if required else "")
        about = escape(member.get("description", "")) + _schema(member, known)
        rows.append(f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{about}</td></tr>")
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _choice(schema: dict[str, Any], known: Sequence[dict[str, Any]]) -> str:
    about = f": {escape(schema['description'])}" if "description" in schema else ""
    return f"<p>{_kind(schema)}{about}</p>{_schema(schema, known)}"


def _kind(member: dict[str, Any]) -> str:
    kinds = member.get("type", "anything")
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if kinds == "array":
        most = f", up to {member['maxItems']:,}" if "maxItems" in member else ""
        return f"array of {_kind(member.get('items', {}))}{most}"
    return escape(text + (f" ({member['format']})" if "format" in member else ""))


def _form(path: str, method: str, operation: dict[str, Any]) -> str:
    fields = "".join(
        f"<p>key <input value='{escape(str(p['example']))}'></p>" for p in operation.get("parameters", ())
    )
    if "requestBody" in operation:
        shown = _examples(operation["requestBody"]["content"]["application/json"])
        if len(shown) > 1:
            options = "".join(
                f"<option value='{escape(_pretty(value))}'>{escape(summary)}</option>"
                for summary, value in shown
            )
            fields += f"<p><select aria-label='Example' autocomplete='off'>{options}</select></p>"
        fields += f"<textarea aria-label='Body' spellcheck='false'>{escape(_pretty(shown[0][1]))}</textarea>"
    return f"<h4>Try it</h4><form data-path='{escape(path)}' data-method='{method.upper()}'>{fields}<button>Send</button><pre hidden></pre></form>"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
