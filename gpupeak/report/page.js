"use strict";
// The list of all samples: search, filters and pages. What came from files is only ever set as text.
(() => {
  const began = performance.now();
  const byId = (id) => document.getElementById(id);
  const { datasets, outcomes, words, rows } = JSON.parse(byId("data").textContent);
  const count = rows.name.length;
  const folded = rows.name.map((name) => name.toLowerCase());
  const PAGE = 50;
  const [form, body, status, previous, next] = ["filters", "rows", "status", "previous", "next"].map(byId);
  const shown = new Map();
  rows.sheet.forEach((number, row) => {
    if (number >= 0) shown.set(row, byId(`sheet-${rows.dataset[row]}-${number}`));
  });
  const FIELDS = ["q", "dataset", "outcome", "source", "order", "fallback", "clamped", "unusual"];
  let found = [];
  let page = 0;
  const open = new Set();

  // An element that holds `content`: text, an element, a list of them, or nothing (null).
  function make(name, content, ...classes) {
    const element = document.createElement(name);
    if (content !== null) element.append(...[content].flat());
    element.classList.add(...classes);
    return element;
  }

  function draw(name, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  function cells(alike, matrix) {
    const side = Math.round((1 + Math.sqrt(1 + 8 * alike.length)) / 2);
    const svg = draw("svg", {
      viewBox: `0 0 ${matrix ? side : side - 1} ${matrix ? side : 1}`,
      preserveAspectRatio: "none",
      class: matrix ? "matrix" : "strip",
      role: "img",
      "aria-label": matrix ? "each frame with each" : "each frame with the next",
    });
    const add = (x, y, level) => svg.append(draw("rect", { x, y, width: 1.02, height: 1.02, class: `a${level}` }));
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

  function match(state) {
    const needle = state.q.trim().toLowerCase();
    const source = state.source === "none" ? "" : state.source;
    const filters = [
      [needle, (row) => folded[row].includes(needle)],
      [state.dataset, (row) => datasets[rows.dataset[row]] === state.dataset],
      [state.outcome, (row) => outcomes[rows.outcome[row]] === state.outcome],
      [state.source, (row) => words[rows.source[row]] === source],
      [state.fallback, (row) => rows.fallback[row]],
      [state.clamped, (row) => rows.clamp[row]],
      [state.unusual, (row) => rows.unusual[row]],
    ].filter(([asked]) => asked);
    const result = [...rows.name.keys()].filter((row) => filters.every(([, fits]) => fits(row)));
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
    const list = make("dl", null);
    const chosen = rows.indices[row];
    const told = [
      [outcomes[rows.outcome[row]] === "saved" ? "fell back" : "reason", words[rows.why[row]]],
      ["peak", rows.peak[row] < 0 ? "" : `frame ${rows.peak[row]}, by ${words[rows.source[row]]}`],
      ["clamped", words[rows.clamp[row]]],
      ["frames", chosen.length ? `${chosen.join(" ")} of ${rows.frames[row]}` : "not recorded"],
      ["neighbours", rows.cosine[row] === null ? "" : `cosine ${rows.cosine[row].toFixed(4)} or more`],
      ["unusual", words[rows.unusual[row]]],
    ];
    const sheet = shown.get(row);
    if (sheet) {
      const link = make("a", "its contact sheet");
      link.href = `#${sheet.id}`;
      told.push(["pictures", link]);
    }
    for (const [name, content] of told) if (content) list.append(make("dt", name), make("dd", content));
    const matrix = rows.alike[row] ? [cells(rows.alike[row], true)] : [];
    const cell = make("td", make("div", [...matrix, list], "pair"));
    cell.colSpan = 6;
    return make("tr", cell, "more");
  }

  function listed(row) {
    const line = make("tr", null);
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
    const result = make("td", make("span", outcome, "tag", `is-${outcome}`));
    const tags = { fallback: "fell back", clamp: "clamped", unusual: "unusual" };
    for (const [field, label] of Object.entries(tags))
      if (rows[field][row]) result.append(", ", make("span", label, "tag", `is-${field}`));
    line.append(
      make("td", button),
      make("td", datasets[rows.dataset[row]], "muted"),
      result,
      make("td", rows.peak[row] < 0 ? "" : `${rows.peak[row]} ${words[rows.source[row]]}`, "wide-only"),
      make("td", rows.indices[row].join(" "), "wide-only", "muted"),
      make("td", rows.alike[row] ? cells(rows.alike[row], false) : null),
    );
    line.classList.toggle("open", open.has(row));
    return open.has(row) ? [line, detail(row)] : [line];
  }

  function turn(to) {
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    page = Math.min(Math.max(0, to), last);
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).flatMap(listed));
    previous.disabled = page === 0;
    next.disabled = page === last;
    byId("page").textContent = `page ${page + 1} of ${last + 1}`;
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
    const none = byId("no-sheets");
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
    byId("list").scrollIntoView();
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
