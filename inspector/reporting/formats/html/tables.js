"use strict";
// The document holds every number already; this makes its tables sortable and searchable.
(() => {
  const FEW = 8; // tables up to this many rows need no search

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];

    function key(row, column) {
      const cell = row.cells[column];
      if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
      return cell.classList.contains("n") ? null : cell.textContent; // an unknown number
    }

    function compare(a, b) {
      return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    }

    function order(column, direction) {
      heads.forEach((head, at) => head.setAttribute("aria-sort", at === column ? direction : "none"));
      if (direction === "none") return body.append(...original);
      const rows = original.map((row) => [key(row, column), row]);
      const known = rows.filter(([value]) => value !== null && value !== "");
      const unknown = rows.filter(([value]) => value === null || value === ""); // last, either way
      const sign = direction === "ascending" ? 1 : -1;
      known.sort(([a], [b]) => sign * compare(a, b));
      body.append(...[...known, ...unknown].map(([, row]) => row));
    }

    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const first = head.classList.contains("n") ? "descending" : "ascending"; // the largest is wanted
      const second = first === "descending" ? "ascending" : "descending";
      const next = { none: first, [first]: second, [second]: "none" };
      button.addEventListener("click", () => order(column, next[head.getAttribute("aria-sort")]));
    });
  }

  function searchable(table, number) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length <= FEW) return;
    const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join("\n").toLowerCase());
    const box = document.createElement("div");
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    box.className = "search";
    input.type = "search";
    input.id = label.htmlFor = `search-${number}`;
    input.autocomplete = "off";
    input.spellcheck = false;
    label.textContent = "Search";
    label.setAttribute("aria-label", `Search ${table.caption.textContent}`);
    box.append(label, input, count);
    table.parentElement.before(box);

    function filter() {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, at) => {
        row.hidden = !words.every((word) => texts[at].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
    }
    input.addEventListener("input", filter);
    filter();
  }

  function reachable(place, table) {
    place.tabIndex = 0; // so that arrow keys scroll it
    place.setAttribute("role", "region");
    place.setAttribute("aria-label", table.caption.textContent);
  }

  document.querySelectorAll(".scroll > table").forEach((table, number) => {
    searchable(table, number);
    sortable(table);
    reachable(table.parentElement, table);
  });
})();
