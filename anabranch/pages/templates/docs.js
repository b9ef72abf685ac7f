document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, output = form.querySelector("pre"), body = form.querySelector("textarea");
  let path = form.dataset.path;
  for (const input of form.querySelectorAll("input")) path = path.replace(`{${input.dataset.name}}`, encodeURIComponent(input.value));
  const credentials = document.querySelector("#credentials"), headers = {};
  if (credentials && credentials.value) headers.authorization = `Bearer ${credentials.value.trim()}`;
  if (body) headers["content-type"] = "application/json";
  // The credentials the browser signed in with open pages only: a call carries nothing but the key typed into this page.
  const options = { method: form.dataset.method, headers, credentials: "omit", body: body ? body.value : undefined };
  output.hidden = false;
  output.textContent = "...";
  try {
    const started = performance.now(), response = await fetch(path, options), text = await response.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch (error) { /* not JSON: shown as text */ }
    output.textContent = `${response.status} ${response.statusText}  ${(performance.now() - started).toFixed(1)} ms\n${shown}`;
  } catch (error) { output.textContent = `no answer: ${error.message}`; }
});
document.addEventListener("change", (event) => {
  if (event.target.matches("select")) event.target.form.querySelector("textarea").value = event.target.value;
});
