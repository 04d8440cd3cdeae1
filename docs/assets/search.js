// The search page: MiniSearch ranks; what a query means is worked out as skipkb/catalog/question.py does it.
(function () {
  "use strict";
  const { load, labelled, select } = window.skipkb;
  const enough = 10; // works with all words of a query; with fewer, those with some of them follow
  const mostWords = 64; // of a query
  const mostLeftOut = 8; // of longer queries, works with all words but one are not looked for

  // The words of a text in lower case without accents; a plus at the end of a word is a word (UNet++).
  function words(text) {
    const plain = text.replace(/(?<=[\p{L}\p{N}_+])\+/gu, " plus ").normalize("NFKD").replace(/\p{M}/gu, "");
    return plain.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [];
  }

  // One spelling for words written together, apart, hyphenated or in the plural: U-Nets is `unet`.
  function joined(parts) {
    return parts.map((word) => (word.length > 3 && /[^isu]s$/.test(word) ? word.slice(0, -1) : word)).join("");
  }

  // How many letters change from one word to the other (Levenshtein), or more than `most`.
  function changes(one, other, most) {
    if (Math.abs(one.length - other.length) > most) return most + 1;
    let row = Array.from({ length: other.length + 1 }, (_, at) => at);
    for (let i = 1; i <= one.length; i += 1) {
      const above = row;
      row = [i];
      for (let j = 1; j <= other.length; j += 1) {
        row.push(Math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (one[i - 1] === other[j - 1] ? 0 : 1)));
      }
    }
    return row[other.length];
  }

  // First and last number of `2015`, `2015..2018`, `<5M`, `>=1.5G`, both inside; null for what is none of these.
  function span(text) {
    const units = { "": 1, k: 1e3, m: 1e6, g: 1e9, b: 1e9, t: 1e12 };
    const amount = (part) => {
      const found = /^([0-9]+(?:\.[0-9]+)?|\.[0-9]+)([kmgbt]?)$/i.exec(part);
      return found ? Number(found[1]) * units[found[2].toLowerCase()] : NaN;
    };
    const [, sign, rest] = /^(<=?|>=?)?(.*)$/.exec(text.replace(/\s/g, ""));
    const [low, high] = rest.includes("..") ? rest.split("..") : [rest, rest];
    const beyond = sign && sign.length === 1 ? 1e-3 : 0;
    const first = sign === "<" || sign === "<=" || low === "" ? 0 : amount(low) + beyond;
    const last = sign === ">" || sign === ">=" || high === "" ? Infinity : amount(high) - beyond;
    return rest && rest !== ".." && first <= last ? [first, last] : null;
  }

  // A query as parts (what stands between two spaces, or a quoted phrase) and filters.
  function parse(text, data) {
    const parts = [];
    const filters = [];
    for (const [pattern, facet, value] of data.phrases) {
      text = text.replace(new RegExp(pattern, "gi"), (...found) => {
        filters.push([facet, value.replace(/\{([0-9])\}/g, (_, group) => found[group])]);
        return " ";
      });
    }
    const plain = text
      .replace(/\b(arxiv|doi):(?=\s*[0-9])/gi, "")
      .replace(/\b([0-9]{4}\.[0-9]{4,5})v[0-9]+\b/gi, "$1")
      .replace(/\[([0-9]{1,3})\]/g, ' "reference $1" ');
    for (const [, facet, value, phrase, word] of plain.matchAll(/([A-Za-z]+):("[^"]*"|[^\s/]\S*)|"([^"]*)"?|([^\s"]+)/g)) {
      const known = facet && [...data.facets, ...data.numbers].includes(facet.toLowerCase());
      const found = words(known ? "" : phrase || word || (facet ? facet + " " + value : ""));
      if (known) filters.push([facet.toLowerCase(), value.replace(/"/g, "").toLowerCase()]);
      else if (found.length) parts.push({ words: found, exactly: Boolean(phrase), prefix: /\*$/.test(word || "") });
    }
    return { parts, filters };
  }

  // Everything that answers queries: window.skipkb.engine(window.SKIPKB_SEARCH, stem).find("a query").
  function engine(data, stem) {
    const columns = Object.keys(data.columns);
    const entries = new Map(data.entries.map((entry) => [entry.key, entry]));
    const alternatives = new Map(Object.entries(data.alternatives));
    const asides = new Set(data.question_words);
    const process = (word) => stem(word);
    const index = new MiniSearch({ idField: "key", fields: columns, tokenize: words, processTerm: process });
    index.addAll(data.entries);
    const stems = (text) => words(text).map(process).join(" ");
    const texts = new Map(data.entries.map((e) => [e.key, " " + columns.map((column) => stems(e[column])).join(" | ") + " "]));

    const vocabulary = [...new Set(data.entries.flatMap((entry) => columns.flatMap((column) => words(entry[column]))))];

    // A term: wordings any of which says it, as stems side by side, or its words anywhere.
    const closely = (text, term) => term.wordings.some((wording) => text.includes(" " + wording + (term.prefix ? "" : " ")));
    const loosely = (text, term) => closely(text, term) || (term.apart.length > 1 && term.apart.every((word) => text.includes(" " + word + " ")));
    function term(wordings, apart = [], prefix = false) {
      const found = { wordings: [...new Set(wordings.map(stems))], apart: apart.map(process), prefix };
      return [...texts.values()].some((text) => closely(text, found)) ? found : null;
    }

    // A word or the beginning of one; a prefix is shortened until something starts so, as stems lack the ending.
    function single(wording, prefix) {
      const whole = prefix ? null : term([wording]);
      if (whole) return whole;
      const lengths = prefix ? Array.from({ length: Math.min(wording.length, 40) }, (_, less) => Math.min(wording.length, 40) - less) : [wording.length];
      const starts = lengths.filter((length) => length > 4 || length === wording.length)
        .map((length) => ({ wordings: [wording.slice(0, length)], apart: [], prefix: true }));
      return starts.find((start) => [...texts.values()].some((text) => closely(text, start))) || null;
    }

    // The words of the texts that take the fewest changes of a letter, two at most.
    function like(word) {
      for (const most of [1, 2]) {
        const near = word.length < 4 * most ? [] : vocabulary.filter((other) => changes(word, other, most) <= most);
        if (near.length) return near;
      }
      return [];
    }

    // A run of words by its other wordings, side by side, or anywhere; a word may also be the beginning of one.
    function worded(run) {
      const others = alternatives.get(joined(run)) || [];
      const several = run.length > 1 || others.length ? term([run.join(" "), ...others], run.filter((word) => !asides.has(word))) : null;
      return several || (run.length === 1 ? single(run[0], false) : null);
    }

    // The terms of a query: quoted phrases and prefixes as they stand, else the longest runs of words that have a wording.
    function understand(parts) {
      const flat = parts.flatMap((part) => part.words.map((word, at) => ({ word, part, left: part.words.length - at }))).slice(0, mostWords);
      const read = { terms: [], asides: [], corrected: [], unknown: [] };
      let at = 0;
      while (at < flat.length) {
        const { part, left } = flat[at];
        const next = flat.slice(at).findIndex((one) => one.part.exactly || one.part.prefix);
        const run = (size) => flat.slice(at, at + size).map((one) => one.word);
        let own = run(left);
        let found = null;
        let instead = [];
        if (next === 0) {
          found = single(own.join(" "), part.prefix);
        } else {
          const most = Math.min(data.longest_run, next < 0 ? flat.length - at : next);
          const sizes = Array.from({ length: most }, (_, less) => most - less);
          const longest = sizes.find((size) => alternatives.has(joined(run(size)))) || 1;
          for (const size of [...new Set([longest, left, 1])].sort((one, other) => other - one)) {
            own = run(size);
            found = worded(own);
            if (found) break;
          }
          if (!found) {
            instead = like(own[0]);
            if (instead.length) found = term(instead);
          }
        }
        if (!found || instead.length) read.unknown.push([own.join(" "), instead[0]]);
        if (found) (own.length === 1 && asides.has(own[0]) && next !== 0 ? read.asides : read.terms).push(found);
        read.corrected.push(...(instead.length ? instead.slice(0, 1) : own));
        at += own.length;
      }
      return { ...read, terms: read.terms.length ? read.terms : read.asides };
    }

    function passes(entry, [facet, value]) {
      const values = entry.facets[facet] || [];
      if (!data.numbers.includes(facet)) return data.free_text.includes(facet) ? values.some((one) => one.includes(value)) : values.includes(value);
      const wanted = span(value);
      return wanted !== null && (entry.numbers[facet] || []).some((one) => one >= wanted[0] && one <= wanted[1]);
    }

    // The DOI or arXiv number that a query consists of, in lower case.
    function identifier(text) {
      const found = /^(?:https?:\/\/)?(?:(?:(?:dx\.)?doi\.org\/|doi:?\s*)?(10\.[0-9]{4,9}\/\S+)|(?:arxiv\.org\/(?:abs|pdf)\/|arxiv:?\s*)?([0-9]{4}\.[0-9]{4,5})(?:v[0-9]+)?(?:\.pdf)?)$/i.exec(text.trim());
      return found ? (found[1] || found[2]).toLowerCase() : null;
    }

    // Entries that answer a query, the best first, and its words that occur nowhere with the words taken instead.
    function find(text, chosen = []) {
      const known = identifier(text);
      if (known !== null) {
        const same = [...entries.values()].filter((entry) => entry.identifiers.includes(known) && chosen.every((filter) => passes(entry, filter)));
        return { found: same.sort((one, other) => other.method - one.method), unknown: [] };
      }
      const { parts, filters } = parse(text, data);
      const allowed = (key) => [...filters, ...chosen].every((filter) => passes(entries.get(key), filter));
      const onlyFilters = filters.length + chosen.length > 0 && parts.every((part) => part.words.every((word) => asides.has(word)));
      if (!parts.length || onlyFilters) return { found: [...entries.values()].filter((entry) => allowed(entry.key)), unknown: [] };
      const { terms, corrected, unknown } = understand(parts);
      const queries = terms.flatMap((one) => [...one.wordings, ...(one.apart.length > 1 ? [one.apart.join(" ")] : [])]
        .map((wording) => ({ combineWith: "AND", queries: wording.split(" "), prefix: one.prefix })));
      const ranked = terms.length ? index.search({ combineWith: "OR", queries }, { boost: data.columns, processTerm: (word) => word }) : [];
      const scores = new Map(ranked.map((hit) => [hit.id, hit.score]));
      const names = new Set([joined(parts.flatMap((part) => part.words)), joined(corrected)]);

      function rank(entry) {
        const near = terms.filter((one) => closely(texts.get(entry.key), one)).length;
        const there = terms.filter((one) => loosely(texts.get(entry.key), one)).length;
        if (entry.names.some((name) => names.has(name))) return 4;
        if (near === terms.length) return 3;
        if (there === terms.length) return 2;
        return terms.length > 2 && terms.length <= mostLeftOut && there === terms.length - 1 ? 1 : 0;
      }

      const hits = data.entries
        .filter((entry) => allowed(entry.key))
        .map((entry) => ({ entry, rank: rank(entry), score: scores.get(entry.key) || 0 }))
        .filter((hit) => hit.rank === 4 || hit.score > 0)
        .sort((one, other) => other.rank - one.rank || other.score - one.score);
      const lowest = hits.length ? hits[Math.min(enough, hits.length) - 1].rank : 0;
      return { found: hits.filter((hit) => hit.rank >= lowest).map((hit) => hit.entry), unknown };
    }

    return { find };
  }

  // The stemmer is a CommonJS module: it is given a place to put its function.
  async function ready() {
    window.module = {};
    await load("vendor/stemmer.js");
    const stem = window.module.exports;
    delete window.module;
    await Promise.all([load("vendor/minisearch.js"), load("search-data.js")]);
    return engine(window.SKIPKB_SEARCH, stem);
  }

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    made.textContent = text;
    return Object.assign(made, attributes);
  }

  // Sections that explain what most of these works are about, those of most of them first.
  function explained(works) {
    if (2 * works.filter((sections) => sections.length).length < Math.max(works.length, 2)) return [];
    const counts = new Map();
    for (const section of works.flat()) counts.set(section, (counts.get(section) || 0) + 1);
    return [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one) || (one < other ? -1 : 1));
  }

  function searchPage(form) {
    ready().then(function (made) {
      window.skipkb.find = made.find;
      const input = form.querySelector("input");
      const results = document.getElementById("skb-results");
      const count = document.getElementById("skb-count");
      const explanations = element("p", "", { id: "skb-explanations", hidden: true });
      count.after(explanations);
      const controls = new Map();
      for (const facet of ["task", "merge", "span", "theme", "runs"]) {
        const values = new Set(window.SKIPKB_SEARCH.entries.flatMap((entry) => entry.facets[facet] || []));
        const control = select([...values].sort());
        control.addEventListener("change", show);
        controls.set(facet, control);
        form.append(labelled(facet, control));
      }

      function show() {
        const chosen = [...controls].filter(([, control]) => control.value).map(([facet, control]) => [facet, control.value]);
        const { found, unknown } = made.find(input.value, chosen);
        results.replaceChildren(...found.slice(0, 50).map(function (entry) {
          const item = document.createElement("li");
          item.append(
            element("a", entry.label + " (" + entry.year + ")", { href: "methods/" + entry.key + ".html" }),
            element("p", entry.title + ". " + entry.authors.replace(/ \([^(]*\)$/, ""), { className: "skb-small" }),
            element("p", entry.contribution),
          );
          return item;
        }));
        const about = found.slice(0, window.SKIPKB_SEARCH.about);
        const sections = explained(about.map((entry) => entry.facets.explanation || []));
        explanations.hidden = !sections.length;
        explanations.replaceChildren("Explained in ", ...sections.flatMap(function (section, number) {
          const { title, page } = window.SKIPKB_SEARCH.explanations[section];
          return [...(number ? [", "] : []), element("a", title, { href: page })];
        }));
        const nowhere = unknown.map(([word, instead]) => "; nothing has " + word + (instead ? ", shown is " + instead : ""));
        count.textContent = found.length + (found.length === 1 ? " work" : " works") + nowhere.join("");
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

  window.skipkb.engine = engine;
  document.addEventListener("DOMContentLoaded", function () {
    const form = document.getElementById("skb-search");
    if (form) searchPage(form);
  });
})();
