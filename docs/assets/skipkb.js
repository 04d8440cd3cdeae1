// What the scripts of the pages share. Libraries are loaded only on pages that use them, from this site, by plain
// <script>, so that pages opened from disk work as well.
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

  window.skipkb = { load, labelled, select };
})();
