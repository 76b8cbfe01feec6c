/** The grid of pictures: only those near the screen exist as elements. */

import { thumbnailUrl } from "./api.js";
import { formatMonth, formatPercent, h } from "./dom.js";
import { addressOf } from "./location.js";

const SCREENS_BEYOND = 0.6; // rendered above and below the screen
const FAST = 4; // pixels a millisecond; pictures that pass faster are not loaded
const SETTLE_MS = 120;
const PARALLEL = 4; // thumbnails; browsers have six connections, and a search must not wait for one
const NO_ROWS = { start: [], top: [], height: [], total: 0, sections: [] };
const NO_COLUMNS = { ids: [], aspect: [], probability: [], matches: 0, runs: [] };

export class Grid {
  /**
   * Args:
   *   onOpen: called with the id of a picture that was clicked.
   *   nearHeader: returns the element of the line between matches and nearest.
   */
  constructor({ onOpen, nearHeader }) {
    this.onOpen = onOpen;
    this.nearHeader = nearHeader;
    this.list = h("ul", { class: "grid", "aria-label": "Pictures", role: "list" });
    this.headers = h("div", { class: "grid-headers" });
    this.element = h("div", { class: "grid-area" }, this.headers, this.list);
    this.columns = NO_COLUMNS;
    this.rows = NO_ROWS;
    this.names = new Map(); // file names by id, as far as answers brought them
    this.tiles = new Map(); // elements by index
    this.pool = [];
    this.waiting = []; // tiles whose pictures are to be loaded, in this order
    this.loading = new Set(); // images
    this.current = 0; // the index that Tab reaches
    this.moved = { y: 0, time: 0 };
    this.list.addEventListener("click", (event) => this.#click(event));
    this.list.addEventListener("keydown", (event) => this.#keydown(event));
    this.list.addEventListener("focusin", (event) => this.#focusin(event));
    this.onScroll = () => this.#schedule();
    addEventListener("scroll", this.onScroll, { passive: true });
  }

  remove() {
    removeEventListener("scroll", this.onScroll);
    this.element.remove();
  }

  /** Show pictures in rows; with `columns` null, the same pictures in other rows. */
  show(columns, rows, { gap }) {
    const anchor = columns ? null : this.#firstVisible();
    for (const index of [...this.tiles.keys()]) this.#release(index);
    this.waiting = [];
    if (columns) {
      this.columns = columns;
      this.current = 0;
    }
    this.rows = rows;
    this.gap = gap;
    this.element.style.height = `${rows.total}px`;
    this.headers.replaceChildren();
    this.shownHeaders = new Map();
    if (anchor !== null && anchor > 0) this.#scrollTo(this.topOf(anchor));
    this.render();
  }

  /** Forget all pictures. */
  clear() {
    this.show(NO_COLUMNS, NO_ROWS, { gap: 0 });
  }

  get count() {
    return this.columns.ids.length;
  }

  indexOf(id) {
    return this.columns.ids.indexOf(Number(id));
  }

  /** Return the distance of a picture's row from the top of the grid. */
  topOf(index) {
    return this.rows.top[this.#rowOf(index)] ?? 0;
  }

  /** Scroll so that a picture is near the top, or only as far as needed. */
  reveal(index, { toTop = false } = {}) {
    const row = this.#rowOf(index);
    const top = this.rows.top[row];
    if (top === undefined) return;
    const offset = this.element.getBoundingClientRect().top + scrollY;
    const above = toTop || offset + top < scrollY + this.#coveredHeight();
    const below = offset + top + this.rows.height[row] > scrollY + innerHeight;
    if (above || below) this.#scrollTo(above ? top : top - innerHeight / 2);
  }

  /** Scroll to a picture and focus it. */
  focus(index) {
    this.current = index;
    this.reveal(index);
    this.render();
    this.tiles.get(index)?.firstChild.focus({ preventScroll: true });
  }

  /** End the requests of thumbnails, so that another request need not wait for them. */
  pause() {
    this.waiting = [];
    for (const image of this.loading) image.removeAttribute("src");
    this.loading.clear();
  }

  /** Render what is near the screen now. */
  render() {
    const offset = this.element.getBoundingClientRect().top;
    const from = -offset - innerHeight * SCREENS_BEYOND;
    const to = -offset + innerHeight * (1 + SCREENS_BEYOND);
    const first = this.#rowAt(from);
    let last = first;
    while (last < this.rows.top.length && this.rows.top[last] < to) last += 1;
    this.#renderRows(first, last);
    this.#renderHeaders(from, to);
    this.#loadPictures(-offset);
  }

  #schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.render();
    });
  }

  #renderRows(first, last) {
    const begin = this.rows.start[first] ?? 0;
    const end = this.rows.start[last] ?? this.count;
    const focused = this.list.contains(document.activeElement) ? this.current : -1;
    for (const index of [...this.tiles.keys()]) {
      if ((index < begin || index >= end) && index !== focused) this.#release(index);
    }
    for (let row = first; row < last; row++) {
      const stop = this.rows.start[row + 1] ?? this.count;
      const height = this.rows.height[row];
      let x = 0;
      for (let index = this.rows.start[row]; index < stop; index++) {
        const width = this.columns.aspect[index] * height;
        if (!this.tiles.has(index)) this.#place(index, x, this.rows.top[row], width, height);
        x += width + this.gap;
      }
    }
  }

  #place(index, x, y, width, height) {
    const tile = this.pool.pop() ?? newTile((image) => this.#loaded(image));
    const link = tile.firstChild;
    const id = this.columns.ids[index];
    const probability = this.columns.probability[index];
    tile.dataset.index = index;
    tile.classList.toggle("near", index >= this.columns.matches);
    tile.setAttribute("aria-setsize", this.count);
    tile.setAttribute("aria-posinset", index + 1);
    tile.style.transform = `translate(${x}px, ${y}px)`;
    tile.style.width = `${width}px`;
    tile.style.height = `${height}px`;
    link.href = addressOf({ picture: id });
    link.tabIndex = index === this.current ? 0 : -1;
    link.setAttribute("aria-label", this.#labelOf(index));
    link.title = this.names.get(id) ?? "";
    link.lastChild.textContent = Number.isNaN(probability) ? "" : formatPercent(probability);
    this.tiles.set(index, tile);
    this.list.append(tile);
  }

  #release(index) {
    const tile = this.tiles.get(index);
    const image = tile.querySelector("img");
    this.tiles.delete(index);
    tile.remove();
    tile.classList.remove("loaded", "failed");
    image.removeAttribute("src"); // ends its request
    this.loading.delete(image);
    if (this.pool.length < 400) this.pool.push(tile);
  }

  /** Set the addresses of the pictures, unless they pass too fast to be seen. */
  #loadPictures(y) {
    const now = performance.now();
    const speed = Math.abs(y - this.moved.y) / Math.max(now - this.moved.time, 1);
    this.moved = { y, time: now };
    clearTimeout(this.settle);
    if (speed > FAST && !document.hidden) {
      this.settle = setTimeout(() => this.#loadPictures(y), SETTLE_MS);
      return;
    }
    const middle = y + innerHeight / 2;
    const distance = (tile) => Math.abs(this.topOf(Number(tile.dataset.index)) - middle);
    this.waiting = [...this.tiles.values()]
      .filter((tile) => !tile.querySelector("img").hasAttribute("src"))
      .map((tile) => ({ tile, distance: distance(tile) }))
      .sort((a, b) => a.distance - b.distance)
      .map(({ tile }) => tile);
    this.#loadNext();
  }

  #loadNext() {
    const height = devicePixelRatio * (this.rows.height[0] ?? 0) > 320 ? 480 : 240;
    while (this.loading.size < PARALLEL && this.waiting.length) {
      const tile = this.waiting.shift();
      const image = tile.querySelector("img");
      if (!tile.isConnected || image.hasAttribute("src")) continue;
      this.loading.add(image);
      image.src = thumbnailUrl(this.columns.ids[tile.dataset.index], height);
    }
  }

  #loaded(image) {
    this.loading.delete(image);
    this.#loadNext();
  }

  #renderHeaders(from, to) {
    const { sections } = this.rows;
    for (const [section, element] of this.shownHeaders) {
      if (section.top < from - 100 || section.top > to) {
        element.remove();
        this.shownHeaders.delete(section);
      }
    }
    for (const section of sections) {
      if (section.top > to) break;
      if (!section.header || section.top < from - 100 || this.shownHeaders.has(section)) continue;
      const element = section.isNear ? this.nearHeader() : h("h2", {}, sectionLabel(section));
      element.classList.add("grid-header");
      element.style.transform = `translateY(${section.top}px)`;
      element.style.height = `${section.header}px`;
      this.headers.append(element);
      this.shownHeaders.set(section, element);
    }
  }

  #labelOf(index) {
    const id = this.columns.ids[index];
    const probability = this.columns.probability[index];
    const name = this.names.get(id) ?? `Picture ${index + 1} of ${this.count}`;
    const run = this.columns.runs.findLast?.((entry) => entry.start <= index);
    const month = run?.month && index < this.columns.matches ? `, ${formatMonth(run.month)}` : "";
    const percent = Number.isNaN(probability) ? "" : `, ${formatPercent(probability)}`;
    return `${name}${month}${percent}${index >= this.columns.matches ? ", no match" : ""}`;
  }

  #rowAt(y) {
    let low = 0;
    let high = this.rows.top.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows.top[middle] + this.rows.height[middle] < y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #rowOf(index) {
    let low = 0;
    let high = this.rows.start.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.rows.start[middle] <= index) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #firstVisible() {
    const covered = this.#coveredHeight();
    return this.rows.start[this.#rowAt(covered - this.element.getBoundingClientRect().top)] ?? null;
  }

  /** Return the height of the header, below which pictures can be seen. */
  #coveredHeight() {
    return document.getElementById("header").offsetHeight;
  }

  #scrollTo(top) {
    const offset = this.element.getBoundingClientRect().top + scrollY;
    scrollTo({ top: offset + top - this.#coveredHeight() - 8, behavior: "instant" });
  }

  #click(event) {
    const tile = event.target.closest("li");
    if (!tile || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    this.onOpen(this.columns.ids[tile.dataset.index]);
  }

  #focusin(event) {
    const tile = event.target.closest("li");
    const before = this.tiles.get(this.current);
    if (before) before.firstChild.tabIndex = -1;
    this.current = Number(tile.dataset.index);
    tile.firstChild.tabIndex = 0;
  }

  #keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = this.#neighbour(event.key);
    if (target === null) return;
    event.preventDefault();
    this.focus(Math.min(Math.max(target, 0), this.count - 1));
  }

  /** Return the index that an arrow key leads to, or null for other keys. */
  #neighbour(key) {
    const row = this.#rowOf(this.current);
    switch (key) {
      case "ArrowLeft":
        return this.current - 1;
      case "ArrowRight":
        return this.current + 1;
      case "ArrowUp":
        return row === 0 ? this.current : this.#inRow(row - 1);
      case "ArrowDown":
        return row === this.rows.start.length - 1 ? this.current : this.#inRow(row + 1);
      case "Home":
        return 0;
      case "End":
        return this.count - 1;
      default:
        return null;
    }
  }

  /** Return the picture of a row that is nearest to the centre of the current one. */
  #inRow(row) {
    const centre = this.#centreOf(this.current);
    const stop = this.rows.start[row + 1] ?? this.count;
    let nearest = this.rows.start[row];
    for (let index = nearest; index < stop; index++) {
      const distance = Math.abs(this.#centreOf(index) - centre);
      if (distance < Math.abs(this.#centreOf(nearest) - centre)) nearest = index;
    }
    return nearest;
  }

  #centreOf(index) {
    const row = this.#rowOf(index);
    const height = this.rows.height[row];
    let x = 0;
    for (let before = this.rows.start[row]; before < index; before++) {
      x += this.columns.aspect[before] * height + this.gap;
    }
    return x + (this.columns.aspect[index] * height) / 2;
  }
}

function newTile(onLoaded) {
  const image = h("img", { alt: "", decoding: "async", draggable: "false" });
  const percent = h("span", { class: "percent", "aria-hidden": "true" });
  const tile = h("li", { class: "tile" }, h("a", {}, image, percent));
  const finish = (name) => {
    if (!image.hasAttribute("src")) return;
    tile.classList.add(name);
    onLoaded(image);
  };
  image.addEventListener("load", () => finish("loaded"));
  image.addEventListener("error", () => finish("failed"));
  return tile;
}

function sectionLabel({ newest, oldest }) {
  if (newest === oldest) return formatMonth(newest);
  const isSameYear = newest.slice(0, 4) === oldest.slice(0, 4);
  const start = formatMonth(oldest);
  return `${isSameYear ? start.split(" ")[0] : start} – ${formatMonth(newest)}`;
}
