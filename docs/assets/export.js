// Rows as files: CSV (RFC 4180), LaTeX (booktabs) and whatever text a page hands over.
(function () {
  "use strict";

  // The text stays as it is, whatever character it begins with; only the quoting is added.
  function csv(lines) {
    const cell = (text) => (/[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text);
    return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
  }

  const special = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", $: "\\$", "&": "\\&", "#": "\\#", _: "\\_", "%": "\\%",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "|": "\\textbar{}", '"': "\\textquotedbl{}",
  };

  function latex([header, ...lines]) {
    const cell = (text) => text.replace(/\s+/g, " ").replace(/[\\{}$&#_%~^<>|"]/g, (character) => special[character]);
    // After "\\" LaTeX takes "[" and "*" for options of the line break.
    const line = (cells) => cells.map(cell).join(" & ").replace(/^(?=[[*])/, "{}") + " \\\\";
    return [
      "% \\usepackage[T1]{fontenc} \\usepackage{booktabs}",
      "\\begin{tabular}{" + "l".repeat(header.length) + "}",
      "\\toprule", line(header), "\\midrule", ...lines.map(line), "\\bottomrule", "\\end{tabular}", "",
    ].join("\n");
  }

  function save(name, text, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: type + ";charset=utf-8" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  Object.assign(window.skipkb, { csv, latex, save });
})();
