"use strict";
// The page: tabs, the address, the theme.

const VIEWS = { optimum: optimumTab, training: trainingTab, filter: filterTab, verdicts: verdictsTab };
let state = readAddress(location.hash);

function update(name, given) {
  state = { ...state, [name]: valid(name, String(given)) };
  if (name === "S" || name === "L") // each kind of spectrum has a parameter of its own
    state[`${name}p`] = SPECTRA[state[name]].parameter ?? state[`${name}p`];
  clearTimeout(update.timer); // browsers bound how often an address changes
  update.timer = setTimeout(() => history.replaceState(null, "", addressOf(state)), 150);
  show();
}

function show() {
  for (const name of Object.keys(TABS)) {
    const chosen = name === state.tab, tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    byId(`panel-${name}`).hidden = !chosen;
  }
  if (state.tab !== "training") trainingTab.pause();
  refreshControls(state);
  try {
    VIEWS[state.tab].draw(state);
    byId("notice").textContent = "";
  } catch (error) {
    if (!/^give /.test(error.message)) throw error; // a list of numbers that is none
    byId("notice").textContent = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
  }
}

function buildTabs() {
  const list = document.querySelector("[role=tablist]"), names = Object.keys(TABS);
  for (const name of names) {
    const about = { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}` };
    const tab = element("button", about, TABS[name]);
    tab.addEventListener("click", () => update("tab", name));
    list.append(tab);
  }
  list.addEventListener("keydown", (event) => {
    const here = names.indexOf(state.tab);
    const next = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: names.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const name = names[(next + names.length) % names.length];
    update("tab", name);
    byId(`tab-${name}`).focus();
  });
}

function showTheme() {
  const dark = document.documentElement.dataset.theme === "dark";
  byId("theme").textContent = dark ? "Light theme" : "Dark theme";
  show();
}

async function copyLink() {
  const address = location.href.replace(/#.*$/, "") + addressOf(state);
  history.replaceState(null, "", addressOf(state));
  try {
    await navigator.clipboard.writeText(address);
    byId("notice").textContent = "The link is copied.";
  } catch {
    byId("notice").textContent = "The link is in the address bar.";
  }
}

buildTabs();
for (const view of Object.values(VIEWS)) view.build(update);
document.addEventListener("input", ({ target: { dataset, value } }) => {
  if (dataset.field) update(dataset.field, value);
});
document.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => {
  state = readAddress(location.hash);
  show();
});
byId("copy").addEventListener("click", copyLink);
byId("theme").addEventListener("click", () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("theme", name);
  } catch { /* storage is off: the choice holds until the page is closed */ }
  setTheme(name);
  showTheme();
});
// A page that shows the explorer in a frame says which theme it has.
addEventListener("message", (event) => {
  if (event.source !== parent || !["light", "dark"].includes(event.data?.theme)) return;
  setTheme(event.data.theme);
  showTheme();
});
systemTheme.addEventListener("change", () => {
  if (chosenTheme()) return;
  setTheme(systemTheme.matches ? "dark" : "light");
  showTheme();
});
byId("version").textContent = VERSION;
state = readAddress(location.hash); // once more, as tabs have added choices
showTheme();
