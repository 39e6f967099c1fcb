"use strict";
// The list of all samples: search and filters. What came from files is only ever set as text.
(() => {
  const began = performance.now();
  const byId = (id) => document.getElementById(id);
  const { datasets, outcomes, words, rows } = JSON.parse(byId("data").textContent);
  const folded = rows.name.map((name) => name.toLowerCase());
  const AT_ONCE = 50;
  const FIELDS = ["q", "dataset", "outcome", "source", "fallback", "clamped", "warned", "unusual"];
  const [form, body, status, more] = ["filters", "rows", "status", "more"].map(byId);
  const sheets = new Map();
  rows.sheet.forEach((number, row) => {
    if (number >= 0) sheets.set(row, byId(`sheet-${rows.dataset[row]}-${number}`));
  });
  let found = [];

  function make(name, content, ...classes) {
    const element = document.createElement(name);
    element.append(content);
    element.classList.add(...classes);
    return element;
  }

  const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");

  function match(asked) {
    const needle = asked.q.trim().toLowerCase();
    const source = asked.source === "none" ? "" : asked.source;
    const filters = [
      [needle, (row) => folded[row].includes(needle)],
      [asked.dataset, (row) => datasets[rows.dataset[row]] === asked.dataset],
      [asked.outcome, (row) => outcomes[rows.outcome[row]] === asked.outcome],
      [asked.source, (row) => words[rows.source[row]] === source],
      [asked.fallback, (row) => rows.fallback[row]],
      [asked.clamped, (row) => rows.clamped[row]],
      [asked.warned, (row) => rows.warned[row]],
      [asked.unusual, (row) => rows.unusual[row]],
    ].filter(([value]) => value);
    return [...rows.name.keys()].filter((row) => filters.every(([, fits]) => fits(row)));
  }

  function state() {
    const values = new FormData(form);
    return Object.fromEntries(FIELDS.map((field) => [field, values.get(field) || ""]));
  }

  // The address holds what was asked, so that it can be kept and sent.
  function remember() {
    const kept = Object.entries(state()).filter(([, value]) => value);
    history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
  }

  function recall() {
    const given = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const field of FIELDS) {
      const control = form.elements[field];
      if (control.type === "checkbox") control.checked = given.get(field) === "1";
      else control.value = given.get(field) || "";
      if (control.selectedIndex === -1) control.value = "";
    }
  }

  function listed(row) {
    const line = document.createElement("tr");
    const outcome = outcomes[rows.outcome[row]];
    const name = sheets.has(row) ? make("a", rows.name[row]) : rows.name[row];
    if (sheets.has(row)) name.href = `#${sheets.get(row).id}`;
    line.append(
      make("td", name),
      make("td", datasets[rows.dataset[row]], "muted"),
      make("td", outcome, `is-${outcome}`),
      make("td", rows.peak[row] < 0 ? "" : `${rows.peak[row]} ${words[rows.source[row]]}`, "wide-only"),
      make("td", rows.indices[row].join(" "), "wide-only", "muted"),
      make("td", rows.remarks[row].map((remark) => words[remark]).join("; ")),
    );
    return line;
  }

  function show() {
    const there = body.childElementCount;
    body.append(...found.slice(there, there + AT_ONCE).map(listed));
    more.hidden = body.childElementCount === found.length;
  }

  function search() {
    const start = performance.now();
    found = match(state());
    body.replaceChildren();
    show();
    const wanted = new Set(found);
    for (const [row, sheet] of sheets) sheet.hidden = !wanted.has(row);
    const visible = [...sheets.keys()].filter((row) => wanted.has(row)).length;
    status.textContent = `${grouped(found.length)} of ${grouped(folded.length)} samples`
      + (sheets.size ? `, ${visible} shown as contact sheets` : "");
    document.documentElement.dataset.searchMs = (performance.now() - start).toFixed(1);
  }

  function ask() {
    search();
    remember();
  }

  form.addEventListener("input", ask);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(ask));
  more.addEventListener("click", show);
  recall();
  search();
  document.documentElement.dataset.readyMs = (performance.now() - began).toFixed(1);
  window.addEventListener("load", () => {
    const pictures = [...document.images];
    const loaded = pictures.filter((picture) => picture.naturalWidth > 0).length;
    document.documentElement.dataset.pictures = `${loaded} of ${pictures.length}`;
  });
})();
