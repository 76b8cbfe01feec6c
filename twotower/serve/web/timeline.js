/** The timeline beside the grid: a slider of months. */

import { formatMonth, h } from "./dom.js";

const MIN_GAP = 22; // pixels between the years that are written
const MIN_SCREENS = 1.5; // less needs no timeline

export class Timeline {
  constructor(grid) {
    this.grid = grid;
    this.bubble = h("output", { class: "timeline-month", "aria-hidden": "true" });
    this.thumb = h("div", { class: "timeline-thumb" });
    this.years = h("div", { class: "timeline-years", "aria-hidden": "true" });
    this.element = h(
      "div",
      {
        class: "timeline",
        role: "slider",
        tabindex: "0",
        "aria-label": "Month",
        "aria-orientation": "vertical",
        hidden: true,
      },
      this.years,
      this.thumb,
      this.bubble,
    );
    this.runs = [];
    this.onScroll = () => requestAnimationFrame(() => this.#follow());
    addEventListener("scroll", this.onScroll, { passive: true });
    this.element.addEventListener("pointerdown", (event) => this.#press(event));
    this.element.addEventListener("pointermove", (event) => this.#move(event));
    this.element.addEventListener("keydown", (event) => this.#keydown(event));
    for (const type of ["pointerup", "pointercancel"]) {
      this.element.addEventListener(type, () => this.element.classList.remove("dragging"));
    }
  }

  remove() {
    removeEventListener("scroll", this.onScroll);
    this.element.remove();
  }

  /** Return true if pictures have several months and fill more than a screen. */
  static suits({ runs }, { total }) {
    return runs.length > 1 && total > innerHeight * MIN_SCREENS;
  }

  /** Show the months of the grid; none hide the timeline. */
  show(runs) {
    this.runs = runs;
    this.element.hidden = runs.length === 0;
    if (this.element.hidden) return;
    this.element.setAttribute("aria-valuemin", 0);
    this.element.setAttribute("aria-valuemax", runs.length - 1);
    this.#writeYears();
    this.#follow();
  }

  #writeYears() {
    const height = this.element.clientHeight;
    const labels = [];
    let lowest = -MIN_GAP;
    let written = null;
    for (const { month, start } of this.runs) {
      const year = month.slice(0, 4);
      const y = this.#fractionOf(start) * height;
      if (year === written) continue;
      written = year;
      if (!year || y - lowest < MIN_GAP || y > height - 12) continue;
      const label = h("span", {}, year);
      label.style.transform = `translateY(${y}px)`;
      labels.push(label);
      lowest = y;
    }
    this.years.replaceChildren(...labels);
  }

  #fractionOf(index) {
    return this.grid.topOf(index) / Math.max(this.grid.rows.total, 1);
  }

  #follow() {
    if (this.element.hidden || !this.runs.length) return;
    const range = document.documentElement.scrollHeight - innerHeight;
    const fraction = Math.min(Math.max(scrollY / Math.max(range, 1), 0), 1);
    const y = fraction * this.element.clientHeight;
    this.thumb.style.transform = `translateY(${y}px)`;
    this.bubble.style.transform = `translateY(${y}px)`;
    const at = this.#runAt(fraction);
    this.element.setAttribute("aria-valuenow", at);
    this.element.setAttribute("aria-valuetext", formatMonth(this.runs[at].month));
    this.bubble.textContent = formatMonth(this.runs[at].month);
  }

  #runAt(fraction) {
    let low = 0;
    let high = this.runs.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#fractionOf(this.runs[middle].start) <= fraction) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #press(event) {
    this.element.setPointerCapture(event.pointerId);
    this.element.classList.add("dragging");
    this.#move(event);
  }

  #move(event) {
    if (!this.element.classList.contains("dragging")) return;
    const box = this.element.getBoundingClientRect();
    const fraction = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 1);
    const range = document.documentElement.scrollHeight - innerHeight;
    scrollTo({ top: fraction * range, behavior: "instant" });
  }

  #keydown(event) {
    const now = Number(this.element.getAttribute("aria-valuenow"));
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
    const ends = { Home: 0, End: this.runs.length - 1 };
    const target = event.key in steps ? now + steps[event.key] : ends[event.key];
    if (target === undefined) return;
    event.preventDefault();
    const index = Math.min(Math.max(target, 0), this.runs.length - 1);
    this.grid.reveal(this.runs[index].start, { toTop: true });
  }
}
