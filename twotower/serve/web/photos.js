/** The pictures: all of them by month, or those that a search finds. */

import { ApiError, parameters, request } from "./api.js";
import { answerCard } from "./answer.js";
import { chips } from "./chips.js";
import { count, h } from "./dom.js";
import { Grid } from "./grid.js";
import { arrangeLayout, layoutOf, loadLayout } from "./layout.js";
import { addressOf, change, open } from "./location.js";
import { announce, errorMessage, placeholders, stateMessage } from "./messages.js";
import { isQuestion, mainText } from "./query.js";
import { Timeline } from "./timeline.js";

const SLOW_MS = 250; // before placeholders replace what is shown
const PROBLEM_MS = 600; // a query that is being typed makes no sense now and then
const SIMILAR = 120; // pictures
const DESCRIBED = 60; // pictures whose names are known without opening them
const NOTHING_UNDERSTOOD = { terms: [], filters: [] };

export class Photos {
  constructor(library) {
    this.library = library;
    this.grid = new Grid({
      onOpen: (id) => change({ picture: id }),
      nearHeader: () => this.#nearHeader(),
    });
    this.timeline = new Timeline(this.grid);
    this.bar = h("div", { class: "results-bar" });
    this.warnings = h("div", { class: "warnings" });
    this.answer = h("div");
    this.message = h("div");
    this.element = h(
      "div",
      { class: "photos" },
      h("h1", { class: "visually-hidden" }, "Pictures"),
      this.bar,
      this.warnings,
      this.answer,
      this.message,
      this.grid.element,
      this.timeline.element,
    );
    this.resize = new ResizeObserver(() => this.#fit());
    this.resize.observe(this.element);
    this.understood = NOTHING_UNDERSTOOD;
    this.generation = 0;
    this.hadTimeline = false;
  }

  remove() {
    this.generation += 1;
    this.controller?.abort();
    this.resize.disconnect();
    this.grid.remove();
    this.timeline.remove();
    this.element.remove();
  }

  /** The description that a heat map is about. */
  get text() {
    return mainText(this.understood.terms);
  }

  get ids() {
    return this.grid.columns.ids;
  }

  /** Show a state of the page; nothing is loaded again if only the lightbox changes. */
  update(state, scroll = null) {
    const key = JSON.stringify([state.q, state.sort, state.all, state.upload, state.similar]);
    if (key === this.key) return;
    this.key = key;
    this.state = state;
    this.load(scroll);
  }

  /** Load the pictures of the present state. */
  async load(scroll = null) {
    const generation = ++this.generation;
    this.controller?.abort();
    this.controller = new AbortController();
    this.grid.pause();
    clearTimeout(this.slow);
    this.slow = setTimeout(() => this.#showLoading(), SLOW_MS);
    try {
      await this.#loadState(generation);
      if (generation !== this.generation) return;
      if (scroll !== null) scrollTo({ top: scroll, behavior: "instant" });
    } catch (error) {
      if (error.name === "AbortError" || generation !== this.generation) return;
      this.#showError(error);
    } finally {
      if (generation === this.generation) this.#endLoading();
    }
  }

  #loadState(generation) {
    if (this.state.similar) return this.#loadSimilar(generation);
    if (this.isQuestion) return this.#loadAnswer(generation);
    return this.#loadSearch(generation);
  }

  get isQuestion() {
    return isQuestion(this.state.q) && !this.state.upload;
  }

  get byDate() {
    const { q, upload, similar, sort } = this.state;
    return sort ? sort === "date" : !(q || upload || similar);
  }

  get #query() {
    const { q, upload, all } = this.state;
    return { q, upload, all, sort: this.byDate ? "date" : "relevance" };
  }

  async #loadSearch(generation) {
    const query = this.#query;
    this.understood = NOTHING_UNDERSTOOD;
    // the pictures first: the server answers one search after the other
    const { columns, rows } = await loadLayout(`/api/layout?${parameters(query)}`, this.#box());
    if (generation !== this.generation) return;
    const details = request(`search?${parameters({ ...query, top: DESCRIBED })}`, {
      signal: this.controller.signal,
    });
    details.catch(() => {}); // reported below, after the pictures are shown
    await this.#showGrid(columns, rows);
    const result = await details;
    if (generation === this.generation) this.#showDetails(result);
  }

  async #loadSimilar(generation) {
    const { similar } = this.state;
    const { signal } = this.controller;
    const [picture, result] = await Promise.all([
      request(`pictures/${similar}`, { signal }),
      request(`pictures/${similar}/similar?top=${SIMILAR}`, { signal }),
    ]);
    const pictures = [...result.hits, ...result.near];
    const { columns, rows } = await layoutOf(pictures, result.hits.length, this.#box());
    if (generation !== this.generation) return;
    this.#showDetails({ ...result, understood: { ...NOTHING_UNDERSTOOD, warnings: [] } }, picture);
    await this.#showGrid(columns, rows);
  }

  /** Ask the question in the search box; words that are no question are searched for. */
  async #loadAnswer(generation) {
    const body = { question: this.state.q };
    let answer;
    try {
      answer = await request("ask", { method: "POST", body, signal: this.controller.signal });
    } catch (error) {
      if (error.status !== 400 && error.status !== 422) throw error;
      return this.#loadSearch(generation);
    }
    const { hits } = answer;
    const { columns, rows } = await layoutOf(hits, hits.length, this.#box());
    if (generation !== this.generation) return;
    this.#showDetails({ understood: NOTHING_UNDERSTOOD, hits, near: [], matches: hits.length });
    this.answer.replaceChildren(answerCard(answer));
    await this.#showGrid(columns, rows);
    this.message.replaceChildren();
  }

  async #showGrid(columns, rows) {
    const hasTimeline = this.byDate && Timeline.suits(columns, rows);
    if (this.element.classList.toggle("with-timeline", hasTimeline) !== this.hadTimeline) {
      this.hadTimeline = hasTimeline;
      ({ rows } = await arrangeLayout(this.#box()));
    }
    this.width = this.#box().width;
    this.#endLoading();
    this.message.replaceChildren();
    this.warnings.replaceChildren();
    scrollTo({ top: 0, behavior: "instant" });
    this.grid.show(columns, rows, this.#box());
    this.element.dataset.query = this.state.q; // the query whose result is shown
    if (!columns.ids.length) this.isSearch ? this.#showNoMatches() : this.#showEmpty();
    this.timeline.show(hasTimeline ? columns.runs : []);
  }

  get isSearch() {
    const { q, upload, similar } = this.state;
    return Boolean(q || upload || similar);
  }

  #showDetails(result, similar = null) {
    this.understood = result.understood;
    for (const picture of [...result.hits, ...result.near]) {
      this.grid.names.set(picture.id, picture.name);
    }
    const matches = result.matches;
    const summary = this.isSearch
      ? matches
        ? count(matches, "match", "matches")
        : "no picture matches"
      : count(matches, "picture");
    this.bar.replaceChildren(
      chips({
        understood: result.understood,
        similar,
        cameras: this.library.cameras,
        onChange: (changes) => change({ ...changes, all: "" }),
      }),
      h(
        "div",
        { class: "summary" },
        h("span", {}, summary),
        result.milliseconds &&
          this.isSearch &&
          h("span", { class: "quiet" }, ` in ${Math.max(1, Math.round(result.milliseconds))} ms`),
      ),
      this.isSearch && !similar && !this.isQuestion ? this.#sortSwitch() : "",
    );
    announce(this.isSearch ? `${summary}${matches ? "" : "; the nearest follow"}` : summary);
    this.#showWarnings(result);
    this.answer.replaceChildren();
  }

  #sortSwitch() {
    const button = (sort, label) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String((sort === "date") === this.byDate),
          onclick: () => change({ sort }),
        },
        label,
      );
    return h(
      "div",
      { class: "switch", role: "group", "aria-label": "Order" },
      button("relevance", "Best first"),
      button("date", "By date"),
    );
  }

  #showWarnings({ understood, left_out: leftOut = {} }) {
    const lines = [...(understood.warnings ?? [])];
    for (const fact of ["date", "place"]) {
      if (leftOut[fact])
        lines.push(`${count(leftOut[fact], "picture")} without a ${fact} left out`);
    }
    this.warnings.replaceChildren(...lines.map((line) => h("p", {}, line)));
  }

  /** Return the line between the matches and the nearest pictures. */
  #nearHeader() {
    const nothing = this.grid.columns.matches === 0;
    const { q, all } = this.state;
    return h(
      "div",
      { class: nothing ? "near-header no-match" : "near-header" },
      h("h2", {}, nothing ? this.#noMatch() : "Nearest, below the cut-off"),
      nothing && h("p", { class: "quiet" }, "The nearest, below the cut-off:"),
      q &&
        !all &&
        h(
          "a",
          {
            class: "text-button",
            href: addressOf({ all: "1" }),
            onclick: (event) => {
              event.preventDefault();
              change({ all: "1" });
            },
          },
          "Show all, nearest first",
        ),
    );
  }

  #noMatch() {
    if (!this.state.q) return "No picture looks like it";
    const text = this.text || this.state.q;
    return text ? `No picture matches “${text}”` : "No picture matches";
  }

  #showEmpty() {
    const isIndexing = this.library.indexing.state === "running";
    this.message.replaceChildren(
      stateMessage({
        icon: "photos",
        title: isIndexing ? "The pictures are being indexed" : "No pictures yet",
        text: isIndexing
          ? "They appear here as soon as the first are ready."
          : `Put pictures into the folder “${this.library.name}”, then index it.`,
        actions:
          isIndexing || !this.library.writable
            ? []
            : [
                h(
                  "button",
                  {
                    type: "button",
                    class: "button primary",
                    onclick: () => request("index", { method: "POST" }),
                  },
                  "Index now",
                ),
              ],
      }),
    );
  }

  #showNoMatches() {
    this.message.replaceChildren(
      stateMessage({
        icon: "search",
        title: this.#noMatch(),
        text: "Nothing comes near either. Try other words, or take a chip away.",
        actions:
          this.state.all || !this.state.q
            ? []
            : [
                h(
                  "button",
                  { type: "button", class: "button", onclick: () => change({ all: "1" }) },
                  "Show all, nearest first",
                ),
              ],
      }),
    );
  }

  #showLoading() {
    this.element.setAttribute("aria-busy", "true");
    if (this.grid.count) {
      this.element.classList.add("stale");
      return;
    }
    this.message.replaceChildren(placeholders(this.#box().target));
  }

  #endLoading() {
    clearTimeout(this.slow);
    this.element.classList.remove("stale");
    this.element.removeAttribute("aria-busy");
  }

  #showError(error) {
    if (error.status === 401) return; // the form for the key is shown
    // while a query is typed it may make no sense for a moment: what was found stays
    if (error instanceof ApiError && error.status === 400 && error.field === "q") {
      this.#showProblem(error.message);
      return;
    }
    this.grid.clear();
    this.timeline.show([]);
    this.bar.replaceChildren();
    if (error.status === 404 && this.state.upload) {
      this.message.replaceChildren(
        stateMessage({
          icon: "picture",
          title: "The picture is gone",
          text: "Dropped pictures are kept for a while only. Drop it again.",
          actions: [
            h(
              "button",
              { type: "button", class: "button", onclick: () => open({}) },
              "All pictures",
            ),
          ],
        }),
      );
      return;
    }
    this.message.replaceChildren(errorMessage(error, () => this.load()));
    if (error.status === 0) dispatchEvent(new Event("disconnected"));
  }

  /** Say what is wrong with a query, once its typing pauses. */
  async #showProblem(message) {
    const { generation } = this;
    await new Promise((resolve) => setTimeout(resolve, PROBLEM_MS));
    if (generation !== this.generation) return;
    this.warnings.replaceChildren(h("p", { class: "problem", role: "alert" }, message));
  }

  #box() {
    const width = this.grid.element.parentElement.clientWidth || innerWidth;
    const isPhone = innerWidth < 640;
    const inner = width - this.#margins();
    return {
      width: inner,
      target: isPhone ? 120 : Math.min(220, Math.max(160, inner / 6.5)),
      gap: isPhone ? 3 : 6,
      monthHeader: isPhone ? 44 : 56,
      nearHeader: isPhone ? 96 : 84,
      noMatchHeader: isPhone ? 104 : 88,
      byMonth: this.byDate,
    };
  }

  #margins() {
    const style = getComputedStyle(this.element);
    return parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
  }

  async #fit() {
    const { width } = this.#box();
    if (!this.grid.count || width === this.width) return;
    this.width = width;
    const box = this.#box();
    const { rows } = await arrangeLayout(box);
    this.grid.show(null, rows, box);
    this.timeline.show(this.hadTimeline ? this.grid.columns.runs : []);
  }
}
