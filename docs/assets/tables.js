// Tables that sort and filter (DataTables), keep their state in the address and hand out the rows shown.
(function () {
  "use strict";
  const { load, labelled, select, csv, latex, save } = window.skipkb;

  const fold = (text) => text.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const saved = (name) => new URLSearchParams(location.search).get(name) || "";

  function remember(state) {
    const address = new URL(location.href);
    for (const [name, value] of Object.entries(state)) {
      if (value) address.searchParams.set(name, value); else address.searchParams.delete(name);
    }
    history.replaceState(history.state, "", address);
  }

  function button(text, action) {
    const control = document.createElement("button");
    control.type = "button";
    control.className = "skb-button";
    control.textContent = text;
    control.addEventListener("click", action);
    return control;
  }

  function input(type) {
    const control = document.createElement("input");
    control.type = type;
    return control;
  }

  // What a filter is: `name` in the address, `fields` on the page, `accepts` a row, and `get` and `set` its value.
  function wordsFilter() {
    const control = input("search");
    return {
      name: "words", controls: [control], fields: [labelled("Filter rows", control)],
      accepts: (row) => fold(control.value).split(/\s+/).every((word) => row.text.includes(word)),
      get: () => control.value, set: (value) => { control.value = value; },
    };
  }

  function rangeFilter(name, rows, unit) {
    const numbers = rows.map((row) => row.numbers[name]).filter((number) => number !== undefined);
    const [from, to] = [Math.min, Math.max].map(function (limit) {
      const control = input("number");
      control.step = "any";
      control.placeholder = numbers.length ? String(limit(...numbers) / unit.size) : "";
      return control;
    });
    const bound = (control, otherwise) => (control.value === "" ? otherwise : Number(control.value) * unit.size);
    return {
      name: slug(name), controls: [from, to],
      fields: [labelled(name + " from" + unit.words, from), labelled(name + " to" + unit.words, to)],
      accepts(row) {
        if (from.value === "" && to.value === "") return true;
        const number = row.numbers[name];  // a number that is not known is in no range
        return number !== undefined && number >= bound(from, -Infinity) && number <= bound(to, Infinity);
      },
      get: () => (from.value === "" && to.value === "" ? "" : from.value + ".." + to.value),
      set(value) { [from.value, to.value] = value.includes("..") ? value.split("..") : [value, value]; },
    };
  }

  function choiceFilter(name, rows, words) {
    const values = [...new Set(rows.flatMap((row) => row.facets[name] || []))].sort();
    if (values.length < 2) return null;
    const control = select(values);
    const options = [...control.options].slice(1);
    return {
      name: slug(name), controls: [control], fields: [labelled(name, control)],
      accepts: (row) => !control.value || (row.facets[name] || []).includes(control.value),
      get: () => control.value, set: (value) => { control.value = values.includes(value) ? value : ""; },
      count(found) {  // beside each choice the number of rows it would leave
        const counts = new Map(values.map((value) => [value, 0]));
        for (const row of found) for (const value of row.facets[name] || []) counts.set(value, counts.get(value) + 1);
        for (const option of options) {
          option.textContent = (words[option.value] || option.value) + " (" + counts.get(option.value) + ")";
        }
      },
    };
  }

  // data: what skipkb/site/rows.py writes. place: where the filters go. changed: is told the rows shown, in order.
  async function interactive(element, data, { place, stateful, changed = () => {} }) {
    await load("vendor/dataTables.min.js");
    const lines = [...element.tBodies[0].rows];
    const headers = [...element.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    const texts = (line) => [...line.cells].map((cell) => cell.textContent.replace(/\s+/g, " ").trim());
    const rows = lines.map(function (line, index) {
      const row = { key: "", facets: {}, numbers: {}, also: "", ...data.rows[index] };
      return { ...row, cells: row.cells || texts(line), text: fold(line.textContent + " " + row.also) };
    });
    const columns = data.columns || headers;

    const units = data.units || {};
    const filters = [
      wordsFilter(),
      ...data.ranges.map((name) => rangeFilter(name, rows, units[name] || { size: 1, words: "" })),
      ...data.choices.map((name) => choiceFilter(name, rows, data.labels[name] || {})),
    ].filter(Boolean);
    const status = document.createElement("p");
    status.className = "skb-rows-shown";
    status.setAttribute("role", "status");
    let shown = new Set();

    const [column, direction] = (stateful ? saved("order") : "").split(".");
    const ordered = headers.findIndex((header) => slug(header) === column);
    const table = new DataTable(element, {
      paging: false, autoWidth: false, order: ordered < 0 ? [] : [[ordered, direction === "desc" ? "desc" : "asc"]],
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      language: { zeroRecords: "No row passes all filters." },
    });
    // DataTables makes a property of the event read-only that the theme's script then sets; it need not see these clicks.
    element.tHead.addEventListener("click", (event) => event.stopPropagation());
    table.search.fixed("skipkb", (text, cells, index) => shown.has(index));

    function filter() {
      shown = new Set();
      const left = new Map(filters.map((one) => [one, []]));
      rows.forEach(function (row, index) {
        const refusing = filters.filter((one) => !one.accepts(row));
        if (!refusing.length) shown.add(index);
        for (const one of filters) if (refusing.every((other) => other === one)) left.get(one).push(row);
      });
      for (const one of filters) if (one.count) one.count(left.get(one));
      status.textContent = shown.size + " of " + rows.length + " rows";
      table.draw();
    }
    const shownRows = () => table.rows({ search: "applied", order: "applied" }).indexes().toArray().map((i) => rows[i]);
    table.on("draw", function () {
      changed(shownRows());
      if (!stateful) return;
      const [first] = table.order();
      const order = first && first[1] ? slug(headers[first[0]]) + "." + first[1] : "";
      remember({ ...Object.fromEntries(filters.map((one) => [one.name, one.get()])), order });
    });

    place.classList.add("skb-filters");
    for (const one of filters) {
      if (stateful) one.set(saved(one.name));
      for (const control of one.controls) control.addEventListener("input", filter);
      place.append(...one.fields);
    }
    place.append(button("Clear filters", function () { for (const one of filters) one.set(""); filter(); }));

    const name = (element.dataset.skbTable || "rows") + "-rows";
    const grid = () => [columns, ...shownRows().map((row) => row.cells)];
    const files = {
      CSV: () => save(name + ".csv", csv(grid()), "text/csv"),
      LaTeX: () => save(name + ".tex", latex(grid()), "application/x-tex"),
      async BibTeX() {
        if (!window.SKIPKB_BIBTEX) await load("bibtex-data.js");
        const records = new Set(shownRows().filter((row) => row.key).map((row) => window.SKIPKB_BIBTEX[row.key]));
        save(name + ".bib", [...records].join("\n\n") + "\n", "application/x-bibtex");
      },
    };
    const actions = document.createElement("div");
    actions.className = "skb-tools skb-actions";
    actions.append(status, "Download the rows shown:", ...data.downloads.map((kind) => button(kind, files[kind])));
    if (stateful) actions.append(copyButton());
    place.after(actions);

    filter();
    element.dataset.skbReady = "true";
  }

  function copyButton() {
    const control = button("Copy link", async function () {
      try {
        await navigator.clipboard.writeText(location.href);
        control.textContent = "Link copied";
        setTimeout(() => { control.textContent = "Copy link"; }, 2000);
      } catch {  // not every browser lets every page write there
        window.prompt("The link to these rows", location.href);
      }
    });
    control.setAttribute("aria-live", "polite");
    return control;
  }

  Object.assign(window.skipkb, { interactive, remember, saved, slug, button });

  document.addEventListener("DOMContentLoaded", function () {
    const tables = [...document.querySelectorAll("table[data-skb-table]")];
    for (const element of tables) {
      const scroll = element.closest(".skb-scroll");
      const script = scroll.nextElementSibling;
      const described = script && script.matches("script[data-skb-rows]");
      const data = described ? JSON.parse(script.textContent) : { choices: [], ranges: [], rows: [], downloads: ["CSV"] };
      const place = document.createElement("div");
      place.className = "skb-tools";
      scroll.before(place);
      interactive(element, data, { place, stateful: tables.length === 1 });
    }
  });
})();
