/** The panel of the lightbox: facts, tags, questions. */

import { request } from "./api.js";
import { pictureAnswer } from "./answer.js";
import { formatBytes, formatDate, formatNumber, formatPercent, h, iconButton } from "./dom.js";
import { addressOf, open } from "./location.js";
import { toast } from "./messages.js";
import { formatFilter } from "./query.js";

const TAGS_MS = 1000;
let vocabulary = null; // the names of all tags, once somebody adds one

export class Details {
  constructor(library, { onHeat }) {
    this.library = library;
    this.onHeat = onHeat;
    this.facts = h("dl", { class: "facts" });
    this.tags = h("ul", { class: "tags", role: "list" });
    this.tagInput = h("input", {
      name: "tag",
      placeholder: "Add a tag",
      "aria-label": "Add a tag",
      list: "vocabulary",
      autocomplete: "off",
      onfocus: () => this.#suggestTags(),
    });
    this.vocabulary = h("datalist", { id: "vocabulary" });
    this.askInput = h("input", {
      name: "question",
      placeholder: "What is in it? How many? Is it …?",
      "aria-label": "A question about the picture",
      autocomplete: "off",
    });
    this.answer = h("div", { class: "answer-body", "aria-live": "polite" });
    const addTag = h(
      "form",
      { onsubmit: (event) => this.#addTag(event), hidden: !library.writable },
      this.tagInput,
      this.vocabulary,
    );
    const ask = h(
      "form",
      { onsubmit: (event) => this.#ask(event) },
      this.askInput,
      h("button", { class: "button" }, "Ask"),
    );
    this.element = h(
      "aside",
      { class: "details", "aria-label": "Facts", hidden: true },
      h("section", {}, h("h2", {}, "Facts"), this.facts),
      h("section", {}, h("h2", {}, "Tags"), this.tags, addTag),
      h("section", {}, h("h2", {}, "Ask"), ask, this.answer),
    );
  }

  clear() {
    this.picture = null;
    this.facts.replaceChildren();
    this.tags.replaceChildren();
    this.answer.replaceChildren();
    this.askInput.value = "";
  }

  show(picture) {
    this.picture = picture;
    this.facts.replaceChildren(...factsOf(picture));
    this.#showTags();
  }

  /** Ask again for the tags, which the server is computing. */
  async #awaitTags() {
    const { id } = this.picture;
    await new Promise((resolve) => setTimeout(resolve, TAGS_MS));
    if (this.picture?.id !== id) return;
    const picture = await request(`pictures/${id}`).catch(() => null);
    if (picture && this.picture?.id === id) this.show(picture);
  }

  /** Move the focus to "tags" or "ask". */
  focus(section) {
    const firstTag = this.tags.querySelector("button:not(:disabled)");
    const target =
      section === "ask" ? this.askInput : this.library.writable ? this.tagInput : firstTag;
    target?.focus();
    (section === "ask" ? this.askInput : this.tags).scrollIntoView({ block: "nearest" });
  }

  #showTags() {
    const tags = this.picture.tags.toSorted(byImportance);
    this.tags.replaceChildren(...tags.map((tag) => this.#tagElement(tag)));
    if (tags.length) return;
    const isReady = this.picture.tags_ready;
    this.tags.append(h("li", { class: "quiet" }, isReady ? "No tags" : "Looking at the picture…"));
    if (!isReady) this.#awaitTags();
  }

  #tagElement(entry) {
    const { tag, probability, verdict } = entry;
    const leaf = tag.split("|").at(-1);
    const button = (name, label, value) =>
      iconButton(
        name,
        `${label} ${leaf}`,
        () => this.#judge(tag, verdict === value ? null : value),
        {
          "aria-pressed": String(verdict === value),
          disabled: !this.library.writable,
        },
      );
    const isAssigned = verdict ?? entry.assigned;
    return h(
      "li",
      { class: isAssigned ? "tag assigned" : "tag" },
      h(
        "button",
        {
          type: "button",
          class: "tag-name",
          title: `${tag.replaceAll("|", " › ")}: show the heat map`,
          onclick: () => this.onHeat(leaf),
        },
        leaf,
      ),
      h("span", { class: "number quiet" }, probability == null ? "" : formatPercent(probability)),
      button("check", "Accept", true),
      button("close", "Reject", false),
    );
  }

  async #judge(tag, accepted) {
    const { id } = this.picture;
    try {
      await request("tags/verdicts", {
        method: "POST",
        body: { verdicts: [{ id, tag, accepted }] },
      });
      const picture = await request(`pictures/${id}`);
      if (this.picture?.id !== id) return;
      this.picture = picture;
      this.#showTags();
      toast(messageOf(tag, accepted));
    } catch (error) {
      toast(error.message);
    }
  }

  #addTag(event) {
    event.preventDefault();
    const typed = this.tagInput.value.trim();
    if (!typed || !this.picture) return;
    const full = vocabulary?.find((name) => name === typed || name.split("|").at(-1) === typed);
    this.tagInput.value = "";
    this.#judge(full ?? typed, true);
  }

  async #suggestTags() {
    if (vocabulary) return;
    try {
      vocabulary = (await request("tags")).map(({ tag }) => tag);
      const names = vocabulary.map((name) => h("option", { value: name.split("|").at(-1) }));
      this.vocabulary.replaceChildren(...names);
    } catch {
      // without suggestions a tag can still be typed
    }
  }

  async #ask(event) {
    event.preventDefault();
    const question = this.askInput.value.trim();
    if (!question || !this.picture) return;
    const { id } = this.picture;
    this.answer.replaceChildren(h("p", { class: "quiet" }, "Asking…"));
    try {
      const answer = await request(`pictures/${id}/ask`, { method: "POST", body: { question } });
      if (this.picture?.id === id) this.answer.replaceChildren(...pictureAnswer(answer));
    } catch (error) {
      this.answer.replaceChildren(h("p", {}, error.message));
    }
  }
}

const byImportance = (a, b) =>
  Number(b.verdict ?? b.assigned) - Number(a.verdict ?? a.assigned) ||
  (b.probability ?? 0) - (a.probability ?? 0);

function messageOf(tag, accepted) {
  const leaf = tag.split("|").at(-1);
  if (accepted === null) return `The verdict on “${leaf}” is taken back.`;
  return accepted ? `Accepted “${leaf}”.` : `Rejected “${leaf}”.`;
}

/** Return names and values; values that a filter can look for are links. */
function factsOf(picture) {
  const {
    path,
    folder,
    taken,
    width,
    height,
    size_bytes: bytes,
    camera,
    latitude,
    longitude,
  } = picture;
  const facts = [
    ["Taken", taken && searchLink(formatDate(taken), `after:${taken.slice(0, 10)}`)],
    ["Folder", folder && folder !== "." && searchLink(folder, formatFilter("folder", folder))],
    ["File", path.split("/").at(-1)],
    [
      "Size",
      [
        width && height && `${formatNumber(width)} × ${formatNumber(height)}`,
        bytes != null && formatBytes(bytes),
      ]
        .filter(Boolean)
        .join(", "),
    ],
    ["Camera", camera && searchLink(camera, formatFilter("camera", camera))],
    [
      "Place",
      latitude != null &&
        searchLink(
          `${latitude.toFixed(4)}, ${longitude.toFixed(4)}`,
          `near:${latitude.toFixed(5)},${longitude.toFixed(5)},5km`,
        ),
    ],
    ["Keywords", picture.keywords?.join(", ")],
  ];
  return facts
    .filter(([, value]) => value)
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])
    .flat();
}

function searchLink(text, q) {
  const href = addressOf({ q }, { from: {} });
  return h(
    "a",
    {
      href,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        open({ q });
      },
    },
    text,
  );
}
