"use strict";
// The list of all samples: search, filters and pages. What came from files is only ever set as text.
(() => {
  const began = performance.now();
  const data = JSON.parse(document.getElementById("data").textContent);
  const { datasets, outcomes, words, rows } = data;
  const count = rows.name.length;
  const folded = rows.name.map((name) => name.toLowerCase());
  const PAGE = 50;
  const form = document.getElementById("filters");
  const body = document.getElementById("rows");
  const status = document.getElementById("status");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  const shown = new Map();
  rows.sheet.forEach((number, row) => {
    if (number >= 0) shown.set(row, document.getElementById(`sheet-${rows.dataset[row]}-${number}`));
  });
  const FIELDS = ["q", "dataset", "outcome", "source", "order", "fallback", "clamped", "unusual"];
  let found = [];
  let page = 0;
  const open = new Set();

  function make(name, text, ...classes) {
    const element = document.createElement(name);
    if (text !== undefined && text !== null) element.textContent = text;
    element.classList.add(...classes);
    return element;
  }

  function cells(alike, side, matrix) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${matrix ? side : side - 1} ${matrix ? side : 1}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", matrix ? "matrix" : "strip");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", matrix ? "each frame with each" : "each frame with the next");
    const add = (x, y, level) => {
      const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [key, value] of Object.entries({ x, y, width: 1.02, height: 1.02, class: `a${level}` }))
        cell.setAttribute(key, value);
      svg.append(cell);
    };
    let at = 0;
    for (let i = 0; i < side; i++) {
      if (matrix) add(i, i, "f");
      for (let j = i + 1; j < side; j++, at++) {
        if (matrix) {
          add(j, i, alike[at]);
          add(i, j, alike[at]);
        } else if (j === i + 1) add(i, 0, alike[at]);
      }
    }
    return svg;
  }

  const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
  const sideOf = (alike) => Math.round((1 + Math.sqrt(1 + 8 * alike.length)) / 2);

  function match(state) {
    const needle = state.q.trim().toLowerCase();
    const dataset = state.dataset ? datasets.indexOf(state.dataset) : -1;
    const outcome = state.outcome ? outcomes.indexOf(state.outcome) : -1;
    const source = state.source === "none" ? 0 : state.source ? words.indexOf(state.source) : -2;
    const result = [];
    for (let row = 0; row < count; row++) {
      if (needle && !folded[row].includes(needle)) continue;
      if (dataset >= 0 && rows.dataset[row] !== dataset) continue;
      if (outcome >= 0 && rows.outcome[row] !== outcome) continue;
      if (source !== -2 && rows.source[row] !== source) continue;
      if (state.fallback && !rows.fallback[row]) continue;
      if (state.clamped && !rows.clamp[row]) continue;
      if (state.unusual && !rows.unusual[row]) continue;
      result.push(row);
    }
    if (state.order === "unusual") result.sort((a, b) => rows.oddness[b] - rows.oddness[a] || a - b);
    return result;
  }

  function state() {
    const values = new FormData(form);
    return Object.fromEntries(FIELDS.map((field) => [field, values.get(field) || ""]));
  }

  function remember(values) {
    const kept = new URLSearchParams(Object.entries(values).filter(([, value]) => value));
    if (page) kept.set("page", page + 1);
    const wanted = kept.toString();
    if (wanted || location.hash.includes("=")) history.replaceState(null, "", `#${wanted}`);
  }

  function recall() {
    const given = location.hash.includes("=") ? new URLSearchParams(location.hash.slice(1)) : new URLSearchParams();
    for (const field of FIELDS) {
      const control = form.elements[field];
      if (control.type === "checkbox") control.checked = given.get(field) === "1";
      else control.value = given.get(field) || "";
      if (control.selectedIndex === -1) control.value = "";
    }
    return Math.max(0, (Number.parseInt(given.get("page"), 10) || 1) - 1);
  }

  function detail(row) {
    const line = make("tr", null, "more");
    const cell = make("td");
    cell.colSpan = 6;
    const pair = make("div", null, "pair");
    const list = make("dl");
    const peak = rows.peak[row] < 0 ? "" : `frame ${rows.peak[row]}, by ${words[rows.source[row]]}`;
    const told = [
      [outcomes[rows.outcome[row]] === "saved" ? "fell back" : "reason", words[rows.why[row]]],
      ["peak", peak],
      ["clamped", words[rows.clamp[row]]],
      ["frames", rows.indices[row].length ? `${rows.indices[row].join(" ")} of ${rows.frames[row]}` : "not recorded"],
      ["neighbours", rows.cosine[row] === null ? "" : `cosine ${rows.cosine[row].toFixed(4)} or more`],
      ["unusual", words[rows.unusual[row]]],
    ];
    for (const [name, text] of told) if (text) list.append(make("dt", name), make("dd", text));
    const sheet = shown.get(row);
    if (sheet) {
      const link = make("a", "its contact sheet");
      link.href = `#${sheet.id}`;
      const to = make("dd");
      to.append(link);
      list.append(make("dt", "pictures"), to);
    }
    if (rows.alike[row]) pair.append(cells(rows.alike[row], sideOf(rows.alike[row]), true));
    pair.append(list);
    cell.append(pair);
    line.append(cell);
    return line;
  }

  function draw(row) {
    const line = make("tr");
    const outcome = outcomes[rows.outcome[row]];
    const button = make("button", rows.name[row]);
    button.type = "button";
    button.setAttribute("aria-expanded", open.has(row));
    button.addEventListener("click", () => {
      if (open.delete(row)) line.nextElementSibling.remove();
      else {
        open.add(row);
        line.after(detail(row));
      }
      button.setAttribute("aria-expanded", open.has(row));
      line.classList.toggle("open", open.has(row));
    });
    const name = make("td");
    name.append(button);
    const result = make("td");
    result.append(make("span", outcome, "tag", `is-${outcome}`));
    const tags = { fallback: "fell back", clamp: "clamped", unusual: "unusual" };
    for (const [field, label] of Object.entries(tags))
      if (rows[field][row]) result.append(", ", make("span", label, "tag", `is-${field}`));
    const peak = rows.peak[row] < 0 ? "" : `${rows.peak[row]} ${words[rows.source[row]]}`;
    const strip = make("td");
    if (rows.alike[row]) strip.append(cells(rows.alike[row], sideOf(rows.alike[row]), false));
    line.append(
      name,
      make("td", datasets[rows.dataset[row]], "muted"),
      result,
      make("td", peak, "wide-only"),
      make("td", rows.indices[row].join(" "), "wide-only", "muted"),
      strip,
    );
    line.classList.toggle("open", open.has(row));
    return open.has(row) ? [line, detail(row)] : [line];
  }

  function turn(to) {
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    page = Math.min(Math.max(0, to), last);
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).flatMap(draw));
    previous.disabled = page === 0;
    next.disabled = page === last;
    document.getElementById("page").textContent = `page ${page + 1} of ${last + 1}`;
  }

  function search(to) {
    const start = performance.now();
    const values = state();
    found = match(values);
    turn(to);
    const wanted = new Set(found);
    let visible = 0;
    for (const [row, sheet] of shown) {
      sheet.hidden = !wanted.has(row);
      visible += !sheet.hidden;
    }
    const none = document.getElementById("no-sheets");
    if (none) none.hidden = visible > 0;
    status.textContent = `${grouped(found.length)} of ${grouped(count)} samples`
      + (shown.size ? `, ${visible} shown as contact sheets` : "");
    remember(values);
    document.documentElement.dataset.searchMs = (performance.now() - start).toFixed(1);
  }

  form.addEventListener("input", () => search(0));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => search(0)));
  const go = (step) => {
    turn(page + step);
    remember(state());
    document.getElementById("list").scrollIntoView();
  };
  previous.addEventListener("click", () => go(-1));
  next.addEventListener("click", () => go(1));
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) search(recall());
  });
  search(recall());
  document.documentElement.dataset.readyMs = (performance.now() - began).toFixed(1);
  window.addEventListener("load", () => {
    const pictures = [...document.images];
    const loaded = pictures.filter((picture) => picture.complete && picture.naturalWidth > 0).length;
    document.documentElement.dataset.pictures = `${loaded} of ${pictures.length}`;
  });
})();
