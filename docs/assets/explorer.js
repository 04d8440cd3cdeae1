// The explorer: all entries with filters, a scatter of two numbers (Chart.js), and a few entries side by side.
(function () {
  "use strict";
  const { load, labelled, interactive, remember, saved, slug, button } = window.skipkb;

  const most = 4;
  const colours = ["#3b6fd4", "#d8572a", "#12836f", "#a05bc4", "#b8860b", "#c2457f", "#5a8f29"];
  const shapes = ["circle", "triangle", "rect", "rectRot", "star", "crossRot", "rectRounded"];
  const logarithmic = ["Parameters", "MACs"];
  const columns = ["Year", "Task", "Merge", "Span", "Parameters", "MACs", "Skips found", "Licence", "Runs here"];
  const whole = new Intl.NumberFormat("en");
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

  function text(tag, content, attributes) {
    const element = document.createElement(tag);
    element.textContent = content;
    return Object.assign(element, attributes);
  }

  function entryLink(row) {
    return text("a", row.name, { href: "methods/" + row.key + ".html" });
  }

  function say(row, name) {
    const number = row.numbers[name];
    if (number === undefined) return "";
    return name === "Year" ? String(number) : number >= 1e5 ? short.format(number) : whole.format(number);
  }

  const noted = (row, name) => say(row, name) + (row.notes[name] ? " (" + row.notes[name] + ")" : "");

  function explorer(page, data) {
    const { rows } = data;
    const byKey = new Map(rows.map((row) => [row.key, row]));
    const names = Object.keys(data.numbers);
    const table = document.getElementById("skb-entries");
    const compare = comparison(byKey, data);

    const head = table.tHead.insertRow();
    head.append(...["Entry", ...columns].map((name) => text("th", name, { scope: "col" })));
    for (const row of rows) {
      const line = table.tBodies[0].insertRow();
      line.insertCell().append(compare.box(row), " ", entryLink(row));
      for (const name of columns) {
        const cell = line.insertCell();
        if (names.includes(name)) {
          cell.className = "skb-number";
          cell.dataset.order = row.numbers[name] ?? -1;
          cell.textContent = say(row, name);
          cell.title = row.notes[name] || "";
          if (row.printed.includes(name)) cell.append(" ", text("small", "printed"));
        } else cell.textContent = (row.facets[name] || []).join(", ");
      }
      row.cells = [
        row.key, row.name, row.venue, ...data.choices.map((name) => (row.facets[name] || []).join("; ")),
        ...names.map((name) => String(row.numbers[name] ?? "")),
        ...logarithmic.map((name) => row.notes[name] || ""),
      ];
    }

    const draw = chart(data, names);
    interactive(table, {
      ...data, ranges: ["Year", "Parameters"], units: { Parameters: { size: 1e6, words: " (millions)" } },
      columns: ["Key", "Entry", "Venue", ...data.choices, ...names, ...logarithmic.map((name) => name + " of")],
      downloads: ["CSV", "LaTeX", "BibTeX"],
    }, { place: page, stateful: true, changed: draw }).then(() => { page.dataset.skbReady = "true"; });
  }

  // The chart comes when its library has arrived; the rest of the page does not wait for it.
  function chart(data, names) {
    const canvas = document.querySelector("#skb-chart canvas");
    const note = document.getElementById("skb-chart-note");
    const tools = document.getElementById("skb-chart-tools");
    let drawn = null, shown = [], trouble = "";

    function choose(label, name, values, first) {
      const control = document.createElement("select");
      for (const value of values) control.append(new Option(value, slug(value)));
      control.value = saved(name);
      if (!control.value) control.value = slug(first);
      control.addEventListener("input", redraw);
      tools.append(labelled(label, control));
      return {
        get value() { return values.find((value) => slug(value) === control.value); },
        state: () => ({ [name]: control.value === slug(first) ? "" : control.value }),
      };
    }
    function axis(label, name, first) {
      const number = choose(label, name, names, first);
      const scale = choose(label + " scale", name + "scale", ["Automatic", "Linear", "Logarithmic"], "Automatic");
      return {
        get name() { return number.value; },
        get log() { return scale.value === "Logarithmic" || (scale.value === "Automatic" && logarithmic.includes(number.value)); },
        state: () => ({ ...number.state(), ...scale.state() }),
      };
    }
    const across = axis("Across", "x", "Year");
    const up = axis("Up", "y", "Parameters");
    const colour = choose("Colour", "colour", ["Table", "Kind", "Theme", "Merge", "Span", "Official code", "Runs here"], "Table");

    function point(row) {
      const [x, y] = [row.numbers[across.name], row.numbers[up.name]];
      const fits = (number, log) => number !== undefined && (!log || number > 0);
      return fits(x, across.log) && fits(y, up.log) ? [{ x, y, row }] : [];
    }

    function scale({ name, log }, ink, line) {
      return {
        type: log ? "logarithmic" : "linear",
        title: { display: true, text: name, color: ink },
        grid: { color: line },
        ticks: {
          color: ink, precision: 0, maxTicksLimit: 12,
          callback: (value) => (name === "Year" ? String(value) : log && !/^10*$/.test(value) ? "" : short.format(value)),
        },
      };
    }

    function redraw() {
      remember({ ...across.state(), ...up.state(), ...colour.state() });
      const points = shown.flatMap(point);
      const zeros = shown.filter((row) => [across, up].every(({ name }) => row.numbers[name] !== undefined)).length - points.length;
      note.textContent = points.length + zeros + " of the " + shown.length + " entries below have both numbers" +
        (zeros ? "; " + zeros + " with a zero have no place on a logarithmic scale" : "") + ". " +
        [...new Set([across.name, up.name])].map((name) => name + ": " + data.numbers[name]).join(". ") + "." + trouble;
      canvas.setAttribute("aria-label", "Scatter chart of " + up.name + " over " + across.name + ", " + points.length +
        " points; the list of entries on this page has the same numbers");
      if (!window.Chart) return;
      const [facet, words] = [colour.value, data.labels[colour.value] || {}];
      const first = (row) => row.facets[facet][0] || "";
      const values = [...new Set(data.rows.map(first))].filter(Boolean).sort();
      const style = getComputedStyle(document.body);
      const ink = style.getPropertyValue("--md-default-fg-color");
      const line = style.getPropertyValue("--md-default-fg-color--lightest");
      const datasets = [...values, ""].map(function (value) {
        const index = values.indexOf(value);
        const shade = index < 0 ? "#8a8f98" : colours[index % colours.length];
        return {
          label: value ? words[value] || value : "none", data: points.filter(({ row }) => first(row) === value), pointStyle: shapes[index] || "circle",
          backgroundColor: shade + "99", borderColor: shade, borderWidth: 1.5, clip: false, pointRadius: 5, pointHoverRadius: 7,
        };
      }).filter((dataset) => dataset.data.length);
      if (drawn) drawn.destroy();
      drawn = new window.Chart(canvas, {
        type: "scatter",
        data: { datasets },
        options: {
          animation: false, maintainAspectRatio: false,
          scales: { x: scale(across, ink, line), y: scale(up, ink, line) },
          plugins: {
            legend: { labels: { color: ink, usePointStyle: true } },
            tooltip: { callbacks: {
              label: ({ raw: { row } }) => row.name + " (" + row.numbers.Year + ")",
              afterLabel: ({ raw: { row } }) => [...new Set([across.name, up.name])].map(function (name) {
                return name + ": " + noted(row, name);
              }),
            } },
          },
          onHover: (event, points) => { canvas.style.cursor = points.length ? "pointer" : "default"; },
          onClick: (event, points) => {
            if (points.length) location.href = entryLink(datasets[points[0].datasetIndex].data[points[0].index].row).href;
          },
        },
      });
    }

    load("vendor/chart.umd.min.js").then(redraw, function () {
      trouble = " The chart could not be loaded.";
      redraw();
    });
    new MutationObserver(redraw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
    return function (rowsShown) { shown = rowsShown; redraw(); };
  }

  // Two to four entries in columns.
  function comparison(byKey, data) {
    const place = document.getElementById("skb-compare");
    const hint = place.firstElementChild;
    const chosen = new Set(saved("compare").split(" ").filter((key) => byKey.has(key)).slice(0, most));
    const boxes = new Map();
    const bar = document.createElement("div");
    bar.className = "skb-chosen";
    bar.setAttribute("role", "status");
    document.getElementById("skb-entries").closest(".skb-scroll").after(bar);

    function box(row) {
      const control = document.createElement("input");
      control.type = "checkbox";
      control.checked = chosen.has(row.key);
      control.setAttribute("aria-label", "Compare " + row.name);
      control.addEventListener("change", () => toggle(row.key, control.checked));
      boxes.set(row.key, control);
      if (boxes.size === byKey.size) show();
      return control;
    }

    function toggle(key, on) {
      if (on) chosen.add(key); else chosen.delete(key);
      show();
    }

    function list(items) {
      if (items.length < 2) return items[0] instanceof Node ? items[0] : document.createTextNode(items[0] || "");
      const element = document.createElement("ul");
      const more = items.length > 8 ? ["and " + (items.length - 8) + " more"] : [];
      for (const item of [...items.slice(0, 8), ...more]) {
        const line = text("li", "");
        line.append(item);
        element.append(line);
      }
      return element;
    }

    function picture(row) {
      const found = (window.SKIPKB_FINGERPRINTS || {})[row.key];
      if (!found) return text("span", window.SKIPKB_FINGERPRINTS ? "none recorded" : "");
      const figure = text("div", "", { className: "skb-compare-picture", innerHTML: found.svg });
      figure.append(text("small", found.text));
      return figure;
    }

    function codeLink(url) {
      return text("a", url.replace(/^https?:\/\//, ""), { href: url, rel: "noopener" });
    }

    const facet = (name) => (row) => [row.facets[name].map((value) => (data.labels[name] || {})[value] || value).join(", ")];
    const lines = [
      ["What it changed", (row) => [row.contribution]], ["Year", (row) => [say(row, "Year")]], ["Venue", (row) => [row.venue]],
      ["Tasks", facet("Task")], ["Themes", facet("Theme")], ["Merges", facet("Merge")], ["Spans", facet("Span")],
      ["Parameters", (row) => row.sizes.Parameters], ["MACs", (row) => row.sizes.MACs],
      ["Skips found", (row) => [noted(row, "Skips found")]], ["Longest skip", (row) => [noted(row, "Longest skip")]],
      ["Official code", (row) => row.code.map(codeLink)], ["Framework", facet("Framework")], ["Licence", facet("Licence")],
      ["Data sets", facet("Data set")], ["Runs here", facet("Runs here")], ["Errata", (row) => [say(row, "Errata")]],
      ["Notes", (row) => [say(row, "Notes")]],
      ["Fingerprint", (row) => [picture(row)]],
    ];

    function show() {
      const rows = [...chosen].map((key) => byKey.get(key));
      remember({ compare: [...chosen].join(" ") });
      for (const [key, control] of boxes) {
        control.checked = chosen.has(key);
        control.disabled = !control.checked && chosen.size >= most;
      }
      bar.hidden = !rows.length;
      bar.replaceChildren(rows.map((row) => row.name).join(", ") + " ");
      if (rows.length > 1) bar.append(text("a", "See side by side", { href: "#side-by-side" }), " ");
      bar.append(button("Clear", function () { chosen.clear(); show(); }));
      if (rows.length < 2) {
        place.replaceChildren(hint);
        return;
      }
      if (!window.SKIPKB_FINGERPRINTS) load("fingerprint-data.js").then(show);
      const table = text("table", "", { className: "skb-table skb-compare" });
      const head = table.createTHead().insertRow();
      head.append(text("th", "", { scope: "col" }), ...rows.map(function (row) {
        const cell = text("th", "", { scope: "col" });
        const remove = button("Remove", () => toggle(row.key, false));
        remove.setAttribute("aria-label", "Remove " + row.name);
        cell.append(entryLink(row), " ", remove);
        return cell;
      }));
      const body = table.createTBody();
      for (const [name, cells] of lines) {
        const line = body.insertRow();
        line.append(text("th", name, { scope: "row" }), ...rows.map(function (row) {
          const cell = text("td", "");
          cell.append(list(cells(row)));
          return cell;
        }));
      }
      const scroll = text("div", "", { className: "skb-scroll", tabIndex: 0 });
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", "Side by side");
      scroll.append(table);
      place.replaceChildren(scroll);
    }

    return { box };
  }

  document.addEventListener("DOMContentLoaded", function () {
    const page = document.getElementById("skb-explorer");
    if (page) load("explorer-data.js").then(() => explorer(page, window.SKIPKB_EXPLORER));
  });
})();
