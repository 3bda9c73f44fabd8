"use strict";
// Controls of the fields of the state, and small helpers for elements.

// An element with attributes and children. Text is text: nothing is read as HTML.
function element(tag, attributes = {}, ...children) {
  const [, kind] = tag.split("svg:");
  const made = kind ? document.createElementNS("http://www.w3.org/2000/svg", kind) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);

function control(panel, name) {
  const field = FIELDS[name], id = `${panel}-${name}`, { min, max, step } = field;
  const parts = [element("label", { for: id }, field.label)], common = { id, "data-field": name };
  if (field.options) {
    const options = Object.entries(field.options);
    parts.push(element("select", common, ...options.map(([value, label]) => element("option", { value }, label))));
  } else if (field.text)
    parts.push(element("input", { ...common, type: "text", autocomplete: "off", spellcheck: "false" }));
  else parts.push(element("input", { ...common, type: "range", min, max, step }), element("output", { for: id }));
  return element("div", { class: "control", "data-of": name }, ...parts);
}

const group = (panel, title, ...names) =>
  element("fieldset", {}, element("legend", {}, title), ...names.map((name) => control(panel, name)));

// All controls of a field, in whichever tab, show the state.
function refreshControls(state) {
  for (const input of document.querySelectorAll("[data-field]")) {
    const name = input.dataset.field;
    if (document.activeElement !== input || input.type === "range") input.value = state[name];
    const box = input.closest("[data-of]"), output = box?.querySelector("output");
    if (output) output.value = format(state[name]);
    if (box) box.hidden = !(FIELDS[name].when?.(state) ?? true);
  }
}

// Four significant digits.
function format(value) {
  if (value === 0) return "0";
  const size = Math.abs(value), digits = Number(value.toPrecision(4));
  return (size < 1e-3 || size >= 1e5 ? digits.toExponential() : String(digits)).replace(/-/g, "−");
}

const percent = (share) => (share > 0 && share < 1e-4 ? "less than 0.01%" : `${(100 * share).toPrecision(3)}%`);

const plusMinus = (value, error) => {
  const places = Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(error || 1e-12))));
  return `${value.toFixed(places)} ± ${error.toFixed(places)}`;
};
