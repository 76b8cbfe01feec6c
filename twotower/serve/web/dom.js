/** Elements, icons and formats that all parts of the page use. */

const SVG = "http://www.w3.org/2000/svg";

// Paths on a grid of 24, drawn with a stroke.
const ICONS = {
  ask: "M21 12a8 8 0 0 1-8 8H4l2-3a8 8 0 1 1 15-5zM9.5 10a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .7-1 1.4M12 16.4v.1",
  back: "M15 5l-7 7 7 7",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  copies: "M9 9h11v11H9zM15 9V4H4v11h5",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  down: "M12 4v12M6.5 11L12 16.5 17.5 11M5 20h14",
  filter: "M4 6h16M7 12h10M10 18h4",
  forward: "M9 5l7 7-7 7",
  heat: "M12 3c1 4 5 5.5 5 10a5 5 0 0 1-10 0c0-2 1-3 2-4 .3 1.5 1 2 1.5 2C11 9 10.5 6 12 3z",
  help: "M9 9a3 3 0 1 1 4.3 2.700c-.8.4-1.3 1-1.3 1.800M12 17v.1M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18z",
  info: "M12 11v5M12 8v.1M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18z",
  minus: "M6 12h12",
  moon: "M20 14.500A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.500z",
  photos: "M4 5h16v14H4zM4 16l5-5 4 4 2-2 5 5M15.5 9v.1",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 2-2 5 5M15.5 9v.1",
  plus: "M12 6v12M6 12h12",
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l4.5 4.5",
  similar: "M4 4h7v7H4zM13 13h7v7h-7zM13 4h7v7h-7zM4 13h7v7H4z",
  sun: "M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.400M17.6 17.600L19 19M5 19l1.4-1.400M17.6 6.400L19 5",
  tag: "M4 4h8l8 8-8 8-8-8zM8 8v.1",
  undo: "M8 5L4 9l4 4M4 9h10a5 5 0 0 1 0 10h-3",
  zoom: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l4.5 4.500M11 8v6M8 11h6",
};

/**
 * Return an element. Attributes that begin with "on" are listeners; `true` stands for an empty
 * attribute, and `false`, `null` and `undefined` for none.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Return an icon, which assistive technology skips. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Return a button with an icon; `label` is its name, and its tooltip with the key. */
export function iconButton(name, label, onclick, { key = "", ...attributes } = {}) {
  const title = key ? `${label} (${key})` : label;
  return h(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title, onclick, ...attributes },
    icon(name),
  );
}

/** Return true if a key press is meant for a text field, or has a modifier. */
export function isTyping(event) {
  const target = event.target;
  return (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    target.isContentEditable ||
    target.matches?.("input:not([type=checkbox]):not([type=radio]), textarea, select")
  );
}

const numbers = new Intl.NumberFormat("en");
const days = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
const months = new Intl.DateTimeFormat("en", { month: "long", year: "numeric", timeZone: "UTC" });

export const formatNumber = (number) => numbers.format(number);
export const formatPercent = (probability) =>
  probability > 0 && probability < 0.01 ? "<1%" : `${Math.round(probability * 100)}%`;
export const formatDate = (iso) => days.format(new Date(iso));
export const formatMonth = (month) =>
  month ? months.format(new Date(`${month}-01T00:00:00Z`)) : "No date";

/** Return a count with its noun, such as "1 picture" and "1,204 pictures". */
export function count(number, noun, plural = `${noun}s`) {
  return `${formatNumber(number)} ${number === 1 ? noun : plural}`;
}

export function formatBytes(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  const power = Math.min(3, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  return `${(bytes / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

/** Read and write a preference; pages without storage have none. */
export const preference = {
  read(name) {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  },
  write(name, value) {
    try {
      if (value == null) localStorage.removeItem(name);
      else localStorage.setItem(name, value);
    } catch {
      // storage is switched off or full: the preference lasts as long as the page
    }
  },
};
