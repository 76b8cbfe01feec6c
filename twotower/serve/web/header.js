/** The header: the search box, the views, the theme. */

import { h, icon, iconButton, preference } from "./dom.js";
import { choosePicture } from "./drop.js";
import { showHelp } from "./help.js";
import { addressOf, change, onChange, open, state } from "./location.js";

const DEBOUNCE_MS = 90;
const MAX_RECENT = 8;
const VIEWS = [
  { view: "", label: "Photos", icon: "photos" },
  { view: "tags", label: "Tags", icon: "tag" },
  { view: "duplicates", label: "Duplicates", icon: "copies" },
];

const input = h("input", {
  id: "search",
  type: "search",
  name: "q",
  placeholder: "Search your pictures in words",
  "aria-label": "Search",
  "aria-describedby": "search-hint",
  autocomplete: "off",
  autocapitalize: "off",
  spellcheck: "false",
  enterkeyhint: "search",
});
let timer = 0;
let isTypingOn = false; // the present step of Back already belongs to what is being typed

/** Fill the header. */
export function showHeader() {
  const box = h(
    "form",
    { class: "search-box", role: "search", onsubmit: commit },
    icon("search"),
    input,
    h(
      "span",
      { id: "search-hint", class: "visually-hidden" },
      "Results appear while you type. Plus and minus combine descriptions.",
    ),
    h("kbd", { class: "search-key", "aria-hidden": "true" }, "/"),
    iconButton("close", "Clear the search", clear, { class: "icon-button search-clear" }),
    iconButton("picture", "Search by a picture; you can also drop or paste one", choosePicture),
    h("div", { class: "recent", hidden: true }),
  );
  const links = VIEWS.map(({ view, label, icon: name }) =>
    h(
      "a",
      {
        href: addressOf({ view }, { from: {} }),
        "data-view": view,
        onclick: (event) => follow(event, view),
      },
      icon(name),
      h("span", {}, label),
    ),
  );
  document.getElementById("header").append(
    h(
      "a",
      {
        class: "brand",
        href: "/",
        "aria-label": "All pictures",
        onclick: (event) => follow(event, ""),
      },
      h("img", {
        src: new URL("./icon.svg", import.meta.url).pathname,
        alt: "",
        width: 28,
        height: 28,
      }),
    ),
    box,
    h("nav", { class: "views", "aria-label": "Views" }, links),
    h(
      "div",
      { class: "header-tools" },
      themeButton(),
      iconButton("help", "Help", showHelp, { key: "?" }),
    ),
  );
  input.addEventListener("input", () => {
    clearTimeout(timer);
    showRecent();
    timer = setTimeout(search, DEBOUNCE_MS);
  });
  input.addEventListener("focus", showRecent);
  input.addEventListener("keydown", keydown);
  box.addEventListener("focusout", (event) => {
    if (!box.contains(event.relatedTarget)) leave(box);
  });
  onChange(followState);
  followState(state());
}

/** Put the cursor into the search box. */
export function focusSearch() {
  input.focus();
  input.select();
}

function followState({ q, view }) {
  if (document.activeElement !== input || input.value.trim() !== q) {
    if (!(isTypingOn && input.value.trim() === q)) input.value = q;
  }
  for (const link of document.querySelectorAll(".views a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function follow(event, view) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  isTypingOn = false;
  open({ view });
}

function search() {
  const q = input.value.trim();
  const { upload } = state();
  if (q === state().q && !state().view) return;
  change(
    { view: "", q, similar: "", all: "", sort: "", picture: "", tag: "", upload },
    { replace: isTypingOn },
  );
  isTypingOn = true;
}

function commit(event) {
  event.preventDefault();
  clearTimeout(timer);
  search();
  remember(input.value.trim());
  isTypingOn = false;
  hideRecent();
  if (matchMedia("(pointer: coarse)").matches) input.blur(); // the keyboard covers the results
}

function clear() {
  input.value = "";
  clearTimeout(timer);
  search();
  input.focus();
}

function leave(box) {
  remember(state().view ? "" : state().q);
  isTypingOn = false;
  hideRecent(box);
}

function keydown(event) {
  if (event.key === "Escape") {
    event.preventDefault();
    if (input.value) clear();
    else input.blur();
  } else if (event.key === "ArrowDown") {
    const next = document.querySelector(".recent:not([hidden]) button, .grid a[tabindex='0']");
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}

// --- recent searches -----------------------------------------------------------------------------

function readRecent() {
  try {
    const queries = JSON.parse(preference.read("recent") ?? "[]");
    return Array.isArray(queries) ? queries.filter((query) => typeof query === "string") : [];
  } catch {
    return [];
  }
}

function remember(query) {
  if (query.length < 2) return;
  const queries = [query, ...readRecent().filter((earlier) => earlier !== query)];
  preference.write("recent", JSON.stringify(queries.slice(0, MAX_RECENT)));
}

function showRecent() {
  const panel = document.querySelector(".recent");
  const queries = readRecent();
  panel.hidden = input.value !== "" || queries.length === 0;
  if (panel.hidden) return;
  const choose = (query) => {
    input.value = query;
    search();
    isTypingOn = false;
    input.focus();
    hideRecent();
  };
  panel.replaceChildren(
    h(
      "div",
      { class: "recent-title" },
      "Recent searches",
      h("button", { type: "button", class: "text-button", onclick: forgetRecent }, "Forget them"),
    ),
    ...queries.map((query) =>
      h(
        "button",
        { type: "button", class: "menu-item", onclick: () => choose(query) },
        icon("search"),
        query,
      ),
    ),
  );
}

function hideRecent() {
  document.querySelector(".recent").hidden = true;
}

function forgetRecent() {
  preference.write("recent", null);
  input.focus();
  hideRecent();
}

// --- theme ---------------------------------------------------------------------------------------

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : prefersDark.matches;
}

function themeButton() {
  const button = iconButton("moon", "", toggle);
  function show() {
    const label = isDark() ? "Use the light theme" : "Use the dark theme";
    button.setAttribute("aria-label", label);
    button.title = label;
    button.replaceChildren(icon(isDark() ? "sun" : "moon"));
  }
  function toggle() {
    const theme = isDark() ? "light" : "dark";
    // the theme of the system needs no preference, and changes with it
    const isSystem = (theme === "dark") === prefersDark.matches;
    if (isSystem) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    preference.write("theme", isSystem ? null : theme);
    show();
  }
  prefersDark.addEventListener("change", show);
  show();
  return button;
}
