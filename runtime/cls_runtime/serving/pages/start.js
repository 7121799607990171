
"use strict";
// The commands on the page ask the address that the page came from.
for (const place of document.querySelectorAll("[data-origin]")) {
  place.textContent = new URL(".", location.href).href.replace(/\/$/, "");
}

const ask = {
  similarity: (form) => ({ path: "similarity", body: { inputs: { source_sentence: form.first.value, sentences: [form.second.value] } } }),
  rerank: (form) => ({ path: "rerank", body: { query: form.query.value, texts: [form.first.value, form.second.value] } }),
  predict: (form) => ({ path: "predict", body: { inputs: form.text.value } }),
};
const scores = {
  similarity: (answer) => [[answer[0], "cosine similarity"]],
  rerank: (answer, form) => answer.map((item) => [item.score, [form.first.value, form.second.value][item.index]]),
  predict: (answer) => answer.map((item) => [item.score, item.label]),
};

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function scoreOf(value, about) {
  const made = element("div", "score", "");
  made.append(element("b", "", value.toFixed(4)), element("span", "", about));
  const bar = element("div", "bar", "");
  const filled = element("i", "", "");
  filled.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
  bar.setAttribute("aria-hidden", "true");
  bar.append(filled);
  made.append(bar);
  return made;
}

function spent(headers) {
  const tokens = headers.get("x-compute-tokens");
  const total = /total;dur=([\d.]+)/.exec(headers.get("server-timing") || "");
  const cut = headers.get("x-cls-truncated");
  return [tokens && `${tokens} tokens`, total && `${total[1]} ms on the server`, cut && `${cut} cut because too long`].filter(Boolean).join(", ");
}

async function send(form, output) {
  const kind = form.dataset.kind;
  const { path, body } = ask[kind](form.elements);
  if (form.elements.model) body.model = form.elements.model.value;
  const headers = { "content-type": "application/json" };
  const key = document.getElementById("key");
  if (key && key.value) headers.authorization = `Bearer ${key.value}`;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(typeof answer.error === "string" ? answer.error : answer.error.message);
  output.replaceChildren(...scores[kind](answer, form.elements).map(([value, about]) => scoreOf(value, about)));
  output.append(element("p", "note", spent(response.headers)));
}

for (const form of document.querySelectorAll("form[data-kind]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    const output = form.querySelector("output");
    button.disabled = true;
    try {
      await send(form, output);
    } catch (error) {
      output.replaceChildren(element("p", "failure", error.message));
    } finally {
      button.disabled = false;
    }
  });
}
