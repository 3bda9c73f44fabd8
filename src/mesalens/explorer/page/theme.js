"use strict";
// Light or dark: as the system has it, until a person chooses. It runs before anything is drawn.

function chosenTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // storage is off
  }
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

const systemTheme = matchMedia("(prefers-color-scheme: dark)");
setTheme(chosenTheme() ?? (systemTheme.matches ? "dark" : "light"));
