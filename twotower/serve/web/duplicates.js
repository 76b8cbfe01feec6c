/** Duplicates: the copies of a picture side by side. Nothing is deleted; paths are copied. */

import { request, thumbnailUrl } from "./api.js";
import { count, formatBytes, formatNumber, h, icon } from "./dom.js";
import { change } from "./location.js";
import { announce, errorMessage, stateMessage, toast } from "./messages.js";

const PAGE = 20;

export class Duplicates {
  constructor() {
    this.element = h("div", { class: "task duplicates" });
    this.marked = new Map(); // paths by id, of the copies that are not needed
    this.ids = [];
    this.text = "";
    this.load();
  }

  remove() {
    this.element.remove();
  }

  update() {}

  async load() {
    this.offset = 0;
    this.marked.clear();
    this.ids = [];
    this.element.replaceChildren(h("p", { class: "quiet loading" }, "Looking for duplicates…"));
    try {
      const { groups, total } = await request(`duplicates?offset=0&top=${PAGE}`);
      this.total = total;
      if (total) this.#showAll(groups);
      else this.#showNone();
    } catch (error) {
      this.element.replaceChildren(errorMessage(error, () => this.load()));
    }
  }

  #showNone() {
    this.element.replaceChildren(
      stateMessage({
        icon: "copies",
        title: "No duplicates",
        text: "No two pictures look the same.",
      }),
    );
  }

  #showAll(groups) {
    this.summary = h("p", { class: "quiet", role: "status" });
    this.copyButton = h(
      "button",
      { type: "button", class: "button primary", onclick: () => this.copyPaths() },
      icon("copy"),
      "Copy the paths",
    );
    this.list = h("ol", { class: "duplicate-groups", role: "list" });
    this.more = h(
      "button",
      { type: "button", class: "button", onclick: () => this.#loadMore() },
      "Show more",
    );
    this.element.replaceChildren(
      h(
        "header",
        { class: "task-header" },
        h("div", {}, h("h1", {}, count(this.total, "group"), " of duplicates"), this.summary),
        h("div", { class: "task-actions" }, this.copyButton),
      ),
      h(
        "p",
        { class: "quiet" },
        "The largest of each group is kept. Nothing is deleted here: copy the paths of the others, and decide yourself.",
      ),
      this.list,
      this.more,
    );
    this.#append(groups);
  }

  async #loadMore() {
    try {
      const { groups } = await request(`duplicates?offset=${this.offset}&top=${PAGE}`);
      this.#append(groups);
    } catch (error) {
      toast(error.message);
    }
  }

  #append(groups) {
    this.offset += groups.length;
    for (const pictures of groups) {
      const best = largest(pictures);
      for (const picture of pictures) {
        this.ids.push(picture.id);
        if (picture !== best) this.marked.set(picture.id, picture.path);
      }
      this.list.append(
        h(
          "li",
          {},
          h(
            "ul",
            { class: "duplicate-group", role: "list" },
            pictures.map((picture) => this.#card(picture, picture === best)),
          ),
        ),
      );
    }
    this.more.hidden = this.offset >= this.total;
    this.#showSummary();
  }

  #card(picture, isBest) {
    const { id, name, path, width, height } = picture;
    const size = h(
      "span",
      {},
      width && height ? `${formatNumber(width)} × ${formatNumber(height)}` : "",
    );
    const checkbox = h("input", {
      type: "checkbox",
      checked: !isBest,
      "aria-label": `${path} is not needed`,
      onchange: () => this.#mark(picture, checkbox.checked),
    });
    const card = h(
      "li",
      { class: "duplicate" },
      h(
        "button",
        {
          type: "button",
          class: "duplicate-picture",
          "aria-label": `Open ${name}`,
          onclick: () => change({ picture: id }),
        },
        h("img", { src: thumbnailUrl(id, 480), alt: "", loading: "lazy" }),
      ),
      h("p", { class: "path", title: path }, path),
      h("p", { class: "quiet" }, size, isBest && h("span", { class: "badge" }, "largest")),
      h("label", {}, checkbox, "not needed"),
    );
    this.#showBytes(id, size);
    return card;
  }

  async #showBytes(id, size) {
    try {
      const { size_bytes: bytes } = await request(`pictures/${id}`);
      if (bytes != null) size.append(` · ${formatBytes(bytes)}`);
    } catch {
      // the dimensions alone stay
    }
  }

  #mark({ id, path }, isMarked) {
    if (isMarked) this.marked.set(id, path);
    else this.marked.delete(id);
    this.#showSummary();
  }

  #showSummary() {
    this.summary.textContent = `${count(this.marked.size, "picture")} not needed`;
    this.copyButton.disabled = !this.marked.size;
  }

  async copyPaths() {
    const text = [...this.marked.values()].join("\n");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      copyBySelection(text); // pages without https have no clipboard
    }
    toast(`Copied ${count(this.marked.size, "path")}.`);
    announce("Copied");
  }
}

const pixels = ({ width, height }) => (width ?? 0) * (height ?? 0);

function largest(pictures) {
  return pictures.reduce((best, picture) => (pixels(picture) > pixels(best) ? picture : best));
}

function copyBySelection(text) {
  const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
