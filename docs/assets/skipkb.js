// Sortable, filterable tables (DataTables) and the search page (MiniSearch). Both libraries are loaded only on
// pages that use them, from this site, by plain <script>, so that pages opened from disk work as well.
(function () {
  "use strict";
  const base = new URL(".", document.currentScript.src).href;

  function load(file) {
    return new Promise(function (resolve, reject) {
      const script = document.createElement("script");
      script.src = base + file;
      script.onload = resolve;
      script.onerror = function () { reject(new Error(file + " did not load")); };
      document.head.append(script);
    });
  }

  function labelled(text, control) {
    const label = document.createElement("label");
    control.id = "skb-choice-" + text.toLowerCase().replace(/\W+/g, "-");
    label.htmlFor = control.id;
    label.textContent = text;
    const field = document.createElement("div");
    field.append(label, control);
    return field;
  }

  function select(values) {
    const control = document.createElement("select");
    control.append(new Option("any", ""));
    for (const value of values) control.append(new Option(value, value));
    return control;
  }

  // A choice for each column with few different values, and for lists such as "add, concat" for their parts.
  function addColumnFilters(table, element) {
    const tools = document.createElement("div");
    tools.className = "skb-tools";
    table.columns().every(function () {
      const column = this;
      const title = column.header().textContent.trim();
      const parts = new Set();
      column.nodes().toArray().forEach(function (cell) {
        if (cell.classList.contains("skb-number")) return;
        cell.textContent.split(",").map((part) => part.trim()).filter(Boolean).forEach((part) => parts.add(part));
      });
      if (!["Group", "Merge", "Span", "Runs here", "Licence", "Type", "Tasks", "Device", "State", "Kind"].includes(title) || !parts.size) return;
      const control = select([...parts].sort());
      control.addEventListener("change", function () {
        const wanted = control.value;
        column.search(wanted ? (text) => text.replace(/<[^>]*>/g, "").split(",").map((part) => part.trim()).includes(wanted) : "").draw();
      });
      tools.append(labelled(title, control));
    });
    if (tools.children.length) element.closest(".skb-scroll").before(tools);
  }

  function enhanceTables(tables) {
    load("vendor/dataTables.min.js").then(function () {
      tables.forEach(function (element) {
        const table = new DataTable(element, {
          paging: false, order: [], autoWidth: false,
          layout: { topStart: "search", topEnd: null, bottomStart: "info", bottomEnd: null },
          language: { search: "Filter rows", info: "_TOTAL_ of _MAX_ rows", infoEmpty: "no row", infoFiltered: "" },
        });
        addColumnFilters(table, element);
        element.dataset.skbReady = "true";
      });
    });
  }

  const weights = { names: 12, title: 6, contribution: 4, authors: 3, description: 1, skips: 1, other: 2 };
  const facets = ["task", "merge", "span", "theme", "table", "year", "runs"];

  function readQuery(text) {
    const filters = [];
    const words = text.replace(/(\w+):("[^"]*"|\S+)/g, function (whole, facet, value) {
      if (!facets.includes(facet.toLowerCase())) return whole;
      filters.push([facet.toLowerCase(), value.replace(/"/g, "").toLowerCase()]);
      return " ";
    });
    return { words: words.trim(), filters };
  }

  function passes(entry, facet, value) {
    if (facet !== "year") return (entry.facets[facet] || []).includes(value);
    const [first, last] = value.includes("..") ? value.split("..") : [value, value];
    return entry.year >= (first || 0) && entry.year <= (last || 9999);
  }

  function searchPage(form) {
    Promise.all([load("vendor/minisearch.js"), load("search-data.js")]).then(function () {
      const entries = new Map(window.SKIPKB_ENTRIES.map((entry) => [entry.key, entry]));
      const fold = (term) => term.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
      const index = new MiniSearch({ idField: "key", fields: Object.keys(weights), processTerm: fold });
      index.addAll(window.SKIPKB_ENTRIES);
      const input = form.querySelector("input");
      const results = document.getElementById("skb-results");
      const count = document.getElementById("skb-count");
      const controls = new Map();
      for (const facet of ["task", "merge", "span", "theme", "runs"]) {
        const values = new Set(window.SKIPKB_ENTRIES.flatMap((entry) => entry.facets[facet] || []));
        const control = select([...values].sort());
        control.addEventListener("change", show);
        controls.set(facet, control);
        form.append(labelled(facet, control));
      }

      function show() {
        const { words, filters } = readQuery(input.value);
        for (const [facet, control] of controls) if (control.value) filters.push([facet, control.value]);
        const options = { boost: weights, prefix: (term) => term.length > 2, fuzzy: (term) => (term.length > 4 ? 0.2 : false) };
        let found = words ? index.search(words, { ...options, combineWith: "AND" }) : [...entries.keys()].map((id) => ({ id }));
        if (words && !found.length) found = index.search(words, options);
        const hits = found.map((hit) => entries.get(hit.id)).filter((entry) => filters.every(([f, v]) => passes(entry, f, v)));
        results.replaceChildren(...hits.slice(0, 50).map(function (entry) {
          const item = document.createElement("li");
          const link = document.createElement("a");
          link.href = "methods/" + entry.key + ".html";
          link.textContent = entry.name + " (" + entry.year + ")";
          const title = document.createElement("p");
          title.className = "skb-small";
          title.textContent = entry.title + ". " + entry.authors;
          const line = document.createElement("p");
          line.textContent = entry.contribution;
          item.append(link, title, line);
          return item;
        }));
        count.textContent = hits.length + (hits.length === 1 ? " work" : " works");
        const address = new URL(location.href);
        if (input.value) address.searchParams.set("query", input.value); else address.searchParams.delete("query");
        history.replaceState(null, "", address);
      }

      input.value = new URLSearchParams(location.search).get("query") || "";
      input.addEventListener("input", show);
      form.addEventListener("submit", function (event) { event.preventDefault(); show(); });
      show();
      form.dataset.skbReady = "true";
    });
  }

  document.addEventListener("DOMContentLoaded", function () {
    const tables = [...document.querySelectorAll("table[data-skb-table]")];
    if (tables.length) enhanceTables(tables);
    const form = document.getElementById("skb-search");
    if (form) searchPage(form);
  });
})();
