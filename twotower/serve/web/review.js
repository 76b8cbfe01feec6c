/** Tag review: accept and reject the tags that teach most, with buttons and keys. */

import { request, thumbnailUrl } from "./api.js";
import { formatPercent, h, icon, iconButton, isTyping } from "./dom.js";
import { change } from "./location.js";
import { announce, errorMessage, stateMessage, toast } from "./messages.js";

const TAGS_AT_ONCE = 20;

export class Review {
  constructor(library) {
    this.library = library;
    this.history = []; // of verdicts: {tag, index, before, undo}
    this.element = h("div", { class: "task review" });
    this.onKey = (event) => this.#keydown(event);
    addEventListener("keydown", this.onKey);
    this.load();
  }

  remove() {
    removeEventListener("keydown", this.onKey);
    this.element.remove();
  }

  update(state) {
    if (state.tag === this.wanted) return; // a picture was opened or closed
    this.wanted = state.tag;
    if (this.entries) this.#showTag();
  }

  async load() {
    this.element.replaceChildren(h("p", { class: "quiet loading" }, "Looking for tags to review…"));
    try {
      this.entries = await request(`tags/review?limit=${TAGS_AT_ONCE}`);
      this.history = [];
      this.#showTag();
    } catch (error) {
      this.element.replaceChildren(errorMessage(error, () => this.load()));
    }
  }

  #showTag() {
    if (!this.entries.length) {
      this.element.replaceChildren(
        stateMessage({
          icon: "tag",
          title: "Nothing to review",
          text: "No tag is in doubt. More come once pictures are added or tags are judged.",
        }),
      );
      return;
    }
    const chosen = this.entries.findIndex((entry) => entry.tag === this.wanted);
    this.position = Math.max(chosen, 0);
    this.entry = this.entries[this.position];
    this.entry.verdicts ??= new Map(); // true or false by the id of a picture
    this.current = 0;
    this.element.replaceChildren(this.#tagList(), this.#workplace());
    this.#select(this.#nextOpen(-1), { focus: false });
  }

  #tagList() {
    return h(
      "nav",
      { class: "review-tags", "aria-label": "Tags to review" },
      h(
        "ul",
        { role: "list" },
        this.entries.map((entry, index) => {
          const leaf = entry.tag.split("|").at(-1);
          const left = entry.pictures.length - (entry.verdicts?.size ?? 0);
          return h(
            "li",
            {},
            h(
              "button",
              {
                type: "button",
                "aria-current": index === this.position ? "true" : null,
                onclick: () => this.#open(index),
              },
              h("span", {}, leaf),
              left ? h("span", { class: "number quiet" }, String(left)) : icon("check"),
            ),
          );
        }),
      ),
    );
  }

  #workplace() {
    const path = this.entry.tag.split("|");
    this.undoButton = h(
      "button",
      { type: "button", class: "button", title: "Undo (u)", onclick: () => this.undo() },
      icon("undo"),
      "Undo",
    );
    this.undoButton.disabled = !this.history.length;
    this.cards = this.entry.pictures.map((picture, index) => this.#card(picture, index));
    return h(
      "section",
      { class: "review-work", "aria-label": `Review of ${path.at(-1)}` },
      h(
        "header",
        { class: "task-header" },
        h(
          "div",
          {},
          h("p", { class: "quiet" }, path.slice(0, -1).join(" › ") || "Tag"),
          h("h1", {}, "Is this “", path.at(-1), "”?"),
        ),
        h(
          "div",
          { class: "task-actions" },
          this.undoButton,
          h(
            "button",
            {
              type: "button",
              class: "button primary",
              title: "Next tag (n)",
              onclick: () => this.next(),
            },
            "Next tag",
          ),
        ),
      ),
      !this.library.writable &&
        h(
          "p",
          { class: "notice" },
          "This server only reads. Start it with --allow-writes to teach it.",
        ),
      h("ul", { class: "review-grid", role: "list" }, this.cards),
    );
  }

  #card(picture, index) {
    const isReadOnly = !this.library.writable;
    const judge = (accepted) => () => this.judge(index, accepted);
    return h(
      "li",
      { class: "review-card", "data-index": index },
      h(
        "button",
        {
          type: "button",
          class: "review-picture",
          "aria-label": `${picture.name}, ${formatPercent(picture.probability ?? 0)}; open`,
          onclick: () => this.#openPicture(index),
          onfocus: () => this.#select(index, { focus: false }),
        },
        h("img", { src: thumbnailUrl(picture.id), alt: "", loading: "lazy" }),
      ),
      h(
        "div",
        { class: "review-buttons" },
        iconButton("check", `Accept for ${picture.name}`, judge(true), {
          key: "a",
          class: "icon-button accept",
          disabled: isReadOnly,
          "aria-pressed": "false",
        }),
        h(
          "span",
          { class: "number quiet" },
          picture.probability == null ? "" : formatPercent(picture.probability),
        ),
        iconButton("close", `Reject for ${picture.name}`, judge(false), {
          key: "r",
          class: "icon-button reject",
          disabled: isReadOnly,
          "aria-pressed": "false",
        }),
      ),
    );
  }

  #openPicture(index) {
    this.#select(index, { focus: false });
    change({ picture: this.entry.pictures[index].id });
  }

  #open(index) {
    change({ tag: this.entries[index].tag }, { replace: true });
  }

  next() {
    if (this.position + 1 < this.entries.length) this.#open(this.position + 1);
    else this.load();
  }

  /** Accept or reject the tag for a picture; the server learns at once. */
  async judge(index, accepted) {
    if (!this.library.writable) return;
    const { entry } = this;
    const picture = entry.pictures[index];
    const before = entry.verdicts.get(picture.id);
    if (before === accepted) return;
    this.#mark(entry, index, accepted);
    this.#select(this.#nextOpen(index));
    try {
      const body = { verdicts: [{ id: picture.id, tag: entry.tag, accepted }] };
      const { undo } = await request("tags/verdicts", { method: "POST", body });
      this.history.push({ entry, index, before, undo });
      this.undoButton.disabled = false;
      announce(`${accepted ? "Accepted" : "Rejected"} for ${picture.name}`);
    } catch (error) {
      this.#mark(entry, index, before);
      toast(error.message);
    }
  }

  async undo() {
    const step = this.history.pop();
    if (!step) return;
    try {
      await request("tags/undo", { method: "POST", body: { undo: step.undo } });
    } catch (error) {
      toast(error.message);
      return;
    }
    this.undoButton.disabled = !this.history.length;
    this.#mark(step.entry, step.index, step.before);
    if (step.entry === this.entry) this.#select(step.index);
    announce("Undone");
  }

  #mark(entry, index, accepted) {
    const { id } = entry.pictures[index];
    if (accepted === undefined) entry.verdicts.delete(id);
    else entry.verdicts.set(id, accepted);
    if (entry === this.entry) this.#showVerdict(index);
    this.element.firstChild.replaceWith(this.#tagList());
  }

  #showVerdict(index) {
    const accepted = this.entry.verdicts.get(this.entry.pictures[index].id);
    const card = this.cards[index];
    card.classList.toggle("accepted", accepted === true);
    card.classList.toggle("rejected", accepted === false);
    card.querySelector(".accept").setAttribute("aria-pressed", String(accepted === true));
    card.querySelector(".reject").setAttribute("aria-pressed", String(accepted === false));
  }

  #select(index, { focus = true } = {}) {
    this.cards[this.current]?.classList.remove("current");
    this.current = Math.min(Math.max(index, 0), this.cards.length - 1);
    const card = this.cards[this.current];
    card?.classList.add("current");
    if (focus) card?.querySelector(".review-picture").focus();
    this.cards.forEach((_, position) => this.#showVerdict(position));
  }

  /** Return the next picture without a verdict, or the last one. */
  #nextOpen(index) {
    const { pictures, verdicts } = this.entry;
    const next = pictures.findIndex(
      (picture, position) => position > index && !verdicts.has(picture.id),
    );
    return next < 0 ? Math.min(index + 1, pictures.length - 1) : next;
  }

  #keydown(event) {
    if (isTyping(event) || !this.entry || document.querySelector("dialog[open]")) return;
    const columns = Math.max(
      1,
      getComputedStyle(this.element.querySelector(".review-grid")).gridTemplateColumns.split(" ")
        .length,
    );
    const actions = {
      a: () => this.judge(this.current, true),
      r: () => this.judge(this.current, false),
      u: () => this.undo(),
      n: () => this.next(),
      ArrowLeft: () => this.#select(this.current - 1),
      ArrowRight: () => this.#select(this.current + 1),
      ArrowUp: () => this.#select(this.current - columns),
      ArrowDown: () => this.#select(this.current + columns),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** For the lightbox: the pictures of the tag under review. */
  get ids() {
    return this.entry?.pictures.map((picture) => picture.id) ?? [];
  }

  get text() {
    return this.entry?.tag.split("|").at(-1) ?? "";
  }
}
