/** The query as the server understood it: chips that can be changed. */

import { thumbnailUrl } from "./api.js";
import { h, icon, iconButton } from "./dom.js";
import { FILTERS, formatFilter, formatQuery } from "./query.js";

/**
 * Return the chips of a search.
 *
 * Args:
 *   understood: {terms, filters} of the answer.
 *   similar: the picture that others resemble, or null.
 *   cameras: names to suggest.
 *   onChange: called with the new {q} and, if the uploaded or similar picture is taken away,
 *     {upload: ""} or {similar: ""}.
 */
export function chips({ understood, similar, cameras, onChange }) {
  const { terms, filters } = understood;
  const rewrite = (newTerms, newFilters) => {
    const hasUpload = newTerms.some((term) => term.upload);
    onChange({ q: formatQuery(newTerms, newFilters), ...(hasUpload ? {} : { upload: "" }) });
  };
  const replaceTerm = (index, ...replacement) =>
    rewrite(terms.toSpliced(index, 1, ...replacement), filters);
  const replaceFilter = (index, ...replacement) =>
    rewrite(terms, filters.toSpliced(index, 1, ...replacement));
  const elements = terms.map((term, index) =>
    termChip(term, (...changed) => replaceTerm(index, ...changed)),
  );
  if (similar) elements.unshift(similarChip(similar, onChange));
  filters.forEach((filter, index) => {
    elements.push(filterChip(filter, cameras, (...changed) => replaceFilter(index, ...changed)));
  });
  elements.push(addFilterButton(cameras, (filter) => rewrite(terms, [...filters, filter])));
  return h(
    "ul",
    { class: "chips", "aria-label": "The search", role: "list" },
    elements.map((element) => h("li", {}, element)),
  );
}

function termChip(term, replace) {
  const name = term.text ?? (term.upload ? "your picture" : term.picture);
  const sign = iconButton(
    term.negated ? "minus" : "plus",
    term.negated ? `Without ${name}; look for it instead` : `With ${name}; exclude it instead`,
    () => replace({ ...term, negated: !term.negated }),
    { class: "chip-sign", disabled: Boolean(term.upload) },
  );
  return h(
    "span",
    { class: `chip${term.negated ? " negated" : ""}` },
    sign,
    term.upload && h("img", { src: `/api/uploads/${term.upload}/thumbnail`, alt: "" }),
    term.text ? editableText(term, replace) : h("span", { class: "chip-text" }, name),
    term.weight !== 1 && h("span", { class: "chip-weight" }, `×${term.weight}`),
    iconButton("close", `Remove ${name}`, () => replace(), { class: "chip-remove" }),
  );
}

function editableText(term, replace) {
  const edit = (event) => {
    const input = h("input", {
      class: "chip-input",
      value: term.text,
      "aria-label": "Description",
      size: Math.max(term.text.length, 6),
    });
    const finish = (isKept) => {
      const text = input.value.trim();
      if (isKept && text && text !== term.text) replace({ ...term, text });
      else input.replaceWith(button);
    };
    const button = event.currentTarget;
    input.addEventListener("blur", () => finish(true));
    input.addEventListener("keydown", (press) => {
      press.stopPropagation();
      if (press.key === "Enter") input.blur();
      if (press.key === "Escape") {
        input.value = term.text;
        input.blur();
        button.focus();
      }
    });
    button.replaceWith(input);
    input.select();
  };
  return h(
    "button",
    { type: "button", class: "chip-text", title: "Edit", onclick: edit },
    term.text,
  );
}

function similarChip(picture, onChange) {
  return h(
    "span",
    { class: "chip" },
    icon("similar"),
    h("img", { src: thumbnailUrl(picture.id), alt: "" }),
    h("span", { class: "chip-text" }, `like ${picture.name}`),
    iconButton("close", "Remove the picture", () => onChange({ similar: "" }), {
      class: "chip-remove",
    }),
  );
}

function filterChip(filter, cameras, replace) {
  const label = FILTERS[filter.key]?.label ?? filter.key;
  const value = filter.text.slice(filter.text.indexOf(":") + 1).replaceAll('"', "");
  const edit = (event) =>
    openFilterEditor(event.currentTarget, filter.key, value, cameras, (text) =>
      replace({ ...filter, text }),
    );
  return h(
    "span",
    { class: "chip filter" },
    icon("filter"),
    h(
      "button",
      {
        type: "button",
        class: "chip-text",
        title: "Edit",
        "aria-haspopup": "dialog",
        onclick: edit,
      },
      h("span", { class: "chip-key" }, `${label} `),
      value,
    ),
    iconButton("close", `Remove ${label} ${value}`, () => replace(), { class: "chip-remove" }),
  );
}

function addFilterButton(cameras, add) {
  const choose = (event) => {
    const anchor = event.currentTarget;
    const choices = Object.entries(FILTERS).map(([key, { label }]) =>
      h(
        "button",
        {
          type: "button",
          class: "menu-item",
          onclick: () => openFilterEditor(anchor, key, "", cameras, (text) => add({ key, text })),
        },
        label,
      ),
    );
    openPopover(anchor, h("div", { class: "menu" }, choices), "Filters");
  };
  return h(
    "button",
    { type: "button", class: "chip add", "aria-haspopup": "dialog", onclick: choose },
    icon("filter"),
    "Filter",
  );
}

function openFilterEditor(anchor, key, value, cameras, apply) {
  const { label, example, choices } = FILTERS[key];
  const field = choices
    ? h(
        "select",
        { name: "value" },
        choices.map((choice) => h("option", { value: choice, selected: choice === value }, choice)),
      )
    : h("input", {
        name: "value",
        value,
        placeholder: example,
        required: true,
        autocomplete: "off",
        list: key === "camera" ? "cameras" : null,
      });
  const options = h(
    "datalist",
    { id: "cameras" },
    cameras.map((name) => h("option", { value: name })),
  );
  const form = h(
    "form",
    {
      class: "filter-form",
      onsubmit: (event) => {
        event.preventDefault();
        popover.hidePopover();
        apply(formatFilter(key, field.value));
      },
    },
    h("label", {}, label, field),
    key === "camera" && options,
    h("button", { class: "button primary" }, "Apply"),
  );
  const popover = openPopover(anchor, form, label);
  field.focus();
}

/** Show content below an element until it is dismissed. */
function openPopover(anchor, content, label) {
  document.querySelector(".popover")?.remove();
  const popover = h(
    "div",
    { class: "popover", popover: "auto", role: "dialog", "aria-label": label },
    content,
  );
  popover.addEventListener("toggle", (event) => {
    if (event.newState !== "closed") return;
    if (popover.contains(document.activeElement)) anchor.focus();
    popover.remove();
  });
  document.body.append(popover);
  popover.showPopover();
  const box = anchor.getBoundingClientRect();
  const left = Math.min(box.left, innerWidth - popover.offsetWidth - 8);
  popover.style.left = `${Math.max(8, left)}px`;
  popover.style.top = `${box.bottom + 6}px`;
  popover.querySelector("button, input, select")?.focus();
  return popover;
}
