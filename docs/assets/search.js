// The search page (MiniSearch).
(function () {
  "use strict";
  const { load, labelled, select } = window.skipkb;

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
    const form = document.getElementById("skb-search");
    if (form) searchPage(form);
  });
})();
