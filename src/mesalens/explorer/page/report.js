"use strict";
// Reports of `mesalens identify`: identification.json is read and checked, and shown as text only.

const MOST_BYTES = 2e7;

async function readReport(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is too large for a report of mesalens identify.`);
  let content;
  try {
    content = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not JSON; give the identification.json of a report.`);
  }
  return checkedReport(content, file.name);
}

// Eigenvalues, and for each layer g with the half width of its band; or a reason why there is none.
function checkedReport(content, name) {
  const verdict = content?.verdict, filter = content?.filter;
  if (typeof verdict !== "string" || typeof filter !== "object" || filter === null)
    throw new Error(`${name} is not a report of mesalens identify: it has no verdict with a filter.`);
  const words = typeof content.name === "string" ? content.name : verdict;
  if (!("eigenvalues" in filter)) return { words, reason: String(filter.reason) };
  const { eigenvalues } = filter;
  const row = (values) =>
    Array.isArray(values) && values.length === eigenvalues.length && values.every(Number.isFinite);
  const table = (values) => Array.isArray(values) && values.length > 0 && values.every(row);
  const good = Array.isArray(eigenvalues) && eigenvalues.length && row(eigenvalues)
    && table(filter.g) && table(filter.simultaneous) && filter.g.length === filter.simultaneous.length;
  if (!good)
    throw new Error(`${name} is damaged: its filter is not a table of finite numbers.`);
  const candidates = Object.entries(filter.candidates ?? {}).filter(([, values]) => row(values));
  return { words, eigenvalues, layers: filter.g, bands: filter.simultaneous, candidates };
}
