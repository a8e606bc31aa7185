// The page: its tabs, its theme, and the order in which the parts start.

import * as captions from "./captions.js";
import { startCode } from "./code.js";
import { $, remembered, tell } from "./dom.js";
import { startImages } from "./images.js";
import * as labels from "./labels.js";
import * as matrix from "./matrix.js";
import { startModels } from "./models.js";
import { clearNotice } from "./notice.js";
import { startTexts } from "./pairs.js";
import * as search from "./search.js";
import * as status from "./status.js";
import { startTrace } from "./trace.js";
import { startWords } from "./words.js";

const views = { labels, search, matrix, captions, status };
const tabs = [...document.querySelectorAll('[role="tab"]')];

function openTab(tab) {
  clearNotice();
  for (const one of tabs) {
    const is = one === tab;
    one.setAttribute("aria-selected", String(is));
    one.tabIndex = is ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !is;
  }
  const name = tab.id.replace("tab-", "");
  $("texts").hidden = !["labels", "matrix"].includes(name);
  for (const [key, view] of Object.entries(views)) view.open(key === name);
  tell("view");
}

/** Arrow keys move between tabs, as screen readers announce them. */
function moveTab(event) {
  const shown = tabs.filter((tab) => !tab.hidden);
  const place = shown.indexOf(event.target);
  const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: shown.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = shown[(to + shown.length) % shown.length];
  tab.focus();
  openTab(tab);
}

function startTheme() {
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    $("theme").value = theme;
    remembered.set("theme", theme);
  };
  $("theme").addEventListener("change", () => apply($("theme").value));
  const held = remembered.get("theme");
  apply(["light", "dark"].includes(held) ? held : "auto");
}

for (const tab of tabs) {
  tab.addEventListener("click", () => openTab(tab));
  tab.addEventListener("keydown", moveTab);
}
startTheme();
startTexts();
startImages();
labels.startLabels();
search.startSearch();
matrix.startMatrix();
captions.startCaptions();
status.startStatus();
startCode();
startTrace();
startWords();
startModels();
openTab($("tab-labels"));
