// The family graph: a picked work with its ancestors, descendants and direct relations; the pick is in the address.
(function () {
  "use strict";

  function familyPage(picture, tools) {
    const paths = [...picture.querySelectorAll("path[data-from]")];
    const select = tools.querySelector("select");
    const text = document.getElementById("skb-family-text");
    const lines = paths.map((path) => ({
      path, from: path.dataset.from, to: path.dataset.to, type: path.classList[0].replace("skb-", ""),
    }));
    const node = (key) => (key ? picture.getElementById(key) : null);

    // All lines on the way from a work against or along `extends`.
    function follow(key, here, there) {
      const found = new Set();
      const seen = new Set([key]);
      for (const work of seen) {
        for (const line of lines) {
          if (line.type !== "extends" || line[here] !== work) continue;
          found.add(line);
          seen.add(line[there]);
        }
      }
      return found;
    }

    function count(some, role, word) {
      const number = new Set([...some].map((line) => line[role])).size;
      return word + " " + number;
    }

    function show(key) {
      const picked = node(key);
      picture.classList.toggle("skb-picking", Boolean(picked));
      for (const element of picture.querySelectorAll(".skb-on, .skb-self")) element.classList.remove("skb-on", "skb-self");
      select.value = picked ? key : "";
      text.replaceChildren();
      if (!picked) return;
      const up = follow(key, "from", "to");
      const down = follow(key, "to", "from");
      const near = lines.filter((line) => line.from === key || line.to === key);
      for (const line of [...near, ...up, ...down]) {
        line.path.classList.add("skb-on");
        line.path.parentNode.append(line.path); // above the lines that are faint now
        node(line.from).classList.add("skb-on");
        node(line.to).classList.add("skb-on");
      }
      picked.classList.add("skb-on", "skb-self");
      const page = document.createElement("a");
      page.href = picked.getAttribute("href");
      page.textContent = select.selectedOptions[0].textContent;
      const of = (type, end) => near.filter((line) => line.type === type && line[end] === key);
      text.append(page, ": ", [
        count(up, "to", "ancestors"), count(down, "from", "descendants"),
        count(of("uses", "from"), "to", "uses"), count(of("uses", "to"), "from", "used by"),
        count(of("explains", "from"), "to", "explains"), count(of("explains", "to"), "from", "explained by"),
      ].filter((part) => !part.endsWith(" 0")).join(", ") || "no relation");
      const box = picture.closest(".skb-picture");
      const place = picked.getBoundingClientRect();
      box.scrollLeft += place.left + place.width / 2 - box.getBoundingClientRect().left - box.clientWidth / 2;
    }

    function pick(key) {
      history.pushState(null, "", key ? "#" + key : location.pathname + location.search);
      show(key);
    }

    picture.addEventListener("click", function (event) {
      const link = event.target.closest("a");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (link.classList.contains("skb-self")) return; // the second click follows the link
      event.preventDefault();
      pick(link.id);
    });
    select.addEventListener("change", () => pick(select.value));
    tools.addEventListener("reset", () => pick(""));
    tools.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", function (event) {
      if (event.key === "Escape" && picture.classList.contains("skb-picking")) pick("");
    });
    const fromAddress = () => show(decodeURIComponent(location.hash.slice(1)));
    window.addEventListener("popstate", fromAddress);
    window.addEventListener("hashchange", fromAddress);
    tools.hidden = false;
    fromAddress();
    // the browser scrolls to the picked work itself and leaves the controls out of sight
    window.addEventListener("load", () => setTimeout(() => picture.classList.contains("skb-picking") && tools.scrollIntoView()));
    picture.dataset.skbReady = "true";
  }

  document.addEventListener("DOMContentLoaded", function () {
    const picture = document.getElementById("skb-family");
    if (picture) familyPage(picture, document.getElementById("skb-family-tools"));
  });
})();
