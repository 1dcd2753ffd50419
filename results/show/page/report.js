"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const fields = { dataset: byId("filter-dataset"), variant: byId("filter-variant"), text: byId("filter-text") };

  // A cell's order is its data-order where it has one (numbers at full precision), else its text. Empty cells stay last.
  const orderOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.order !== undefined) return cell.dataset.order === "" ? null : Number(cell.dataset.order);
    return cell.textContent.trim() || null;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));

  function sort(header) {
    const table = header.closest("table");
    const column = header.cellIndex;
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of all("th", table)) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = [...table.tBodies[0].rows].map((row) => [orderOf(row, column), row]);
    keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : (descending ? -1 : 1) * compare(a, b)));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }

  function filter() {
    const { dataset, variant } = { dataset: fields.dataset.value, variant: fields.variant.value };
    const text = fields.text.value.trim().toLowerCase();
    const narrowed = Boolean(dataset || variant || text);
    for (const figure of all("figure.table")) {
      const rows = [...figure.querySelector("tbody").rows];
      let shown = 0;
      for (const row of rows) {
        const fits = (want, has) => !want || !has || has === want;
        row.hidden = !(fits(dataset, row.dataset.dataset) && fits(variant, row.dataset.variant) && (!text || row.textContent.toLowerCase().includes(text)));
        shown += row.hidden ? 0 : 1;
      }
      figure.querySelector(".count").textContent = narrowed ? `${shown} of ${rows.length} rows` : "";
    }
    const state = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) if (field.value) state.set(name, field.value);
    remember("filter", state.toString());
  }

  // A page that refreshes itself keeps its filters and its theme. Storage may be forbidden to files.
  function remember(name, value) { try { sessionStorage.setItem(`aaebench-${name}`, value); } catch { /* kept for this view only */ } }
  function recall(name) { try { return sessionStorage.getItem(`aaebench-${name}`) || ""; } catch { return ""; } }

  for (const header of all("th")) header.querySelector("button").addEventListener("click", () => sort(header));
  for (const field of Object.values(fields)) field.addEventListener("input", filter);
  byId("filter-clear").addEventListener("click", () => { for (const field of Object.values(fields)) field.value = ""; filter(); });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember("theme", root.dataset.theme);
  });
  // A slider shows the frame of its epoch in every cell of its setting.
  for (const slider of all(".grids input")) {
    const epochs = slider.dataset.epochs.split(" ");
    slider.addEventListener("input", () => {
      const place = Number(slider.value);
      slider.setAttribute("aria-valuetext", `epoch ${epochs[place]}`);
      slider.parentElement.querySelector("output").textContent = epochs[place];
      for (const cell of all(".cell", slider.closest(".grids"))) all("img, p", cell).forEach((frame, number) => { frame.hidden = number !== place; });
    });
  }
  // What is folded away is printed all the same.
  addEventListener("beforeprint", () => { for (const folded of all("details:not([open])")) { folded.open = true; folded.dataset.folded = ""; } });
  addEventListener("afterprint", () => { for (const folded of all("details[data-folded]")) { folded.open = false; delete folded.dataset.folded; } });
  if (recall("theme")) document.documentElement.dataset.theme = recall("theme");
  for (const [name, value] of new URLSearchParams(recall("filter"))) if (fields[name]) fields[name].value = value;
  filter();
})();
