// Tables that sort and filter (DataTables).
(function () {
  "use strict";
  const { load, labelled, select } = window.skipkb;

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

  document.addEventListener("DOMContentLoaded", function () {
    const tables = [...document.querySelectorAll("table[data-skb-table]")];
    if (tables.length) enhanceTables(tables);
  });
})();
