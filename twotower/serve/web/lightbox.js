/** The lightbox: a picture as large as the screen, with keys. */

import { request, send, thumbnailUrl } from "./api.js";
import { Details } from "./details.js";
import { formatNumber, formatPercent, h, iconButton, isTyping, preference } from "./dom.js";
import { showHelp } from "./help.js";
import { back, change, open } from "./location.js";
import { toast } from "./messages.js";

const LARGE_PIXELS = 4e6; // larger pictures are shown reduced until they are zoomed
const PLAIN_SUFFIX = /\.(jpe?g|png|webp|gif|avif)$/i; // others are shown as the server's JPEG
const SWIPE = 60; // pixels

export class Lightbox {
  /**
   * Args:
   *   library: the facts of the library.
   *   source: {ids, text, grid} of the pictures behind, which may change.
   */
  constructor(library, source) {
    this.source = source;
    this.details = new Details(library, { onHeat: (text) => this.showHeat(text) });
    this.#build();
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.close();
    });
    this.dialog.addEventListener("keydown", (event) => this.#keydown(event));
    this.observer = new ResizeObserver(() => this.#fit());
    this.observer.observe(this.stage);
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.dialog.focus();
    this.setPanel(preference.read("panel") === "open" && innerWidth >= 900);
  }

  #build() {
    const tool = (name, label, key, run) => iconButton(name, label, run, { key });
    this.place = h("span", { class: "lightbox-place" });
    this.title = h("h1", {});
    this.original = h("a", {
      class: "icon-button",
      "aria-label": "Open the file",
      title: "Open the file",
      target: "_blank",
      rel: "noopener",
    });
    this.original.append(iconButton("down", "", null).firstChild);
    this.infoButton = tool("info", "Facts", "i", () => this.setPanel(!this.isPanelOpen));
    this.heatButton = tool("heat", "Heat map", "h", () => this.toggleHeat());
    this.heatButton.setAttribute("aria-pressed", "false");
    const bar = h(
      "header",
      { class: "lightbox-bar" },
      tool("back", "Close", "Esc", () => this.close()),
      this.title,
      this.place,
      h(
        "div",
        { class: "lightbox-tools" },
        tool("similar", "Similar pictures", "s", () => this.showSimilar()),
        this.heatButton,
        tool("ask", "Ask", "a", () => this.openPanel("ask")),
        tool("tag", "Tags", "t", () => this.openPanel("tags")),
        tool("zoom", "Full size", "z", () => this.toggleZoom()),
        this.infoButton,
        this.original,
        tool("help", "Help", "?", showHelp),
      ),
    );
    this.figure = h("figure", { class: "lightbox-figure" });
    this.previous = iconButton("back", "Previous picture", () => this.step(-1), {
      class: "step previous",
    });
    this.next = iconButton("forward", "Next picture", () => this.step(1), { class: "step next" });
    this.heatForm = this.#buildHeatForm();
    this.stage = h("div", { class: "lightbox-stage" }, this.figure);
    this.stage.addEventListener("dblclick", () => this.toggleZoom());
    this.#listenToSwipes();
    this.dialog = h(
      "dialog",
      { class: "lightbox", "aria-label": "Picture", tabindex: "-1" },
      bar,
      h("div", { class: "lightbox-middle" }, this.stage, this.previous, this.next, this.heatForm),
      this.details.element,
    );
  }

  #buildHeatForm() {
    this.heatInput = h("input", {
      "aria-label": "Description for the heat map",
      placeholder: "something in it",
      autocomplete: "off",
    });
    this.heatPercent = h("output", { class: "number" });
    return h(
      "form",
      {
        class: "heat-form",
        hidden: true,
        onsubmit: (event) => {
          event.preventDefault();
          this.showHeat(this.heatInput.value.trim());
        },
      },
      h("span", {}, "Where is"),
      this.heatInput,
      this.heatPercent,
      iconButton("close", "Hide the heat map", () => this.hideHeat()),
    );
  }

  remove() {
    this.observer.disconnect();
    this.dialog.close();
    this.dialog.remove();
    const index = this.source.grid?.indexOf(this.id) ?? -1;
    if (index >= 0) this.source.grid.focus(index);
  }

  close() {
    back({ picture: "" });
  }

  /** Show a picture. */
  async show(id) {
    if (id === this.id) return;
    this.id = id;
    this.index = this.source.ids.indexOf(Number(id));
    this.hideHeat();
    this.#showPlace();
    this.picture = null;
    this.title.textContent = "";
    this.figure.replaceChildren(h("img", { class: "preview", src: thumbnailUrl(id), alt: "" }));
    this.aspect = this.source.grid?.columns.aspect[this.index] ?? null; // until its facts come
    this.#fit();
    this.details.clear();
    try {
      const picture = await request(`pictures/${id}`);
      if (id !== this.id) return;
      this.#showPicture(picture);
    } catch (error) {
      if (id !== this.id) return;
      this.title.textContent = "Picture not available";
      this.figure.replaceChildren(h("p", { class: "quiet" }, error.message));
    }
  }

  #showPlace() {
    const { length } = this.source.ids;
    this.place.textContent =
      this.index < 0 ? "" : `${formatNumber(this.index + 1)} / ${formatNumber(length)}`;
    this.previous.hidden = this.index <= 0;
    this.next.hidden = this.index < 0 || this.index === length - 1;
  }

  #showPicture(picture) {
    this.picture = picture;
    const { id, name, width, height, kind } = picture;
    this.title.textContent = name;
    this.dialog.setAttribute("aria-label", `Picture ${name}`);
    if (width && height) this.aspect = width / height;
    this.original.href = `/api/pictures/${id}/original`;
    const isPlain = kind === "picture" && PLAIN_SUFFIX.test(name);
    this.full = isPlain ? `/api/pictures/${id}/original` : `/api/pictures/${id}/original?view=1`;
    if (kind === "video") this.#showVideo(id);
    else
      this.#showImage(isPlain && width * height > LARGE_PIXELS ? `${this.full}?view=1` : this.full);
    this.#fit();
    this.details.show(picture, this.source.text);
    this.#preload();
  }

  #showImage(url) {
    const image = h("img", {
      class: "full",
      alt: this.picture.name,
      src: url,
      decoding: "async",
      draggable: "false",
    });
    image.addEventListener("load", () => {
      if (!this.aspect) this.aspect = image.naturalWidth / image.naturalHeight;
      image.classList.add("loaded");
      this.#fit();
    });
    image.addEventListener("error", () => toast("The picture cannot be shown."));
    this.figure.append(image);
  }

  #showVideo(id) {
    this.figure.append(
      h("video", {
        class: "full loaded",
        controls: true,
        preload: "metadata",
        src: `/api/pictures/${id}/original`,
        poster: `/api/pictures/${id}/original?view=1`,
        "aria-label": this.picture.name,
      }),
    );
  }

  /** Fetch the thumbnails of the neighbours, so that the next step shows something at once. */
  #preload() {
    for (const index of [this.index + 1, this.index - 1, this.index + 2]) {
      const id = this.source.ids[index];
      if (this.index >= 0 && id !== undefined) new Image().src = thumbnailUrl(id);
    }
  }

  /** Make the figure as large as the stage allows. */
  #fit() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    const aspect = this.aspect ?? 1.5;
    let shown = Math.min(width, height * aspect);
    if (this.isZoomed && this.picture?.width)
      shown = Math.max(shown, this.picture.width / devicePixelRatio);
    this.figure.style.width = `${shown}px`;
    this.figure.style.height = `${shown / aspect}px`;
  }

  toggleZoom() {
    this.isZoomed = !this.isZoomed;
    this.stage.classList.toggle("zoomed", this.isZoomed);
    const image = this.figure.querySelector("img.full");
    if (this.isZoomed && image && this.full && !image.src.endsWith(this.full))
      image.src = this.full;
    this.#fit();
    if (this.isZoomed) {
      this.stage.scrollTo(
        (this.stage.scrollWidth - this.stage.clientWidth) / 2,
        (this.stage.scrollHeight - this.stage.clientHeight) / 2,
      );
    }
  }

  step(by) {
    const id = this.source.ids[this.index + by];
    if (this.index < 0 || id === undefined) return;
    this.isZoomed = false;
    this.stage.classList.remove("zoomed");
    change({ picture: id }, { replace: true });
  }

  showSimilar() {
    open({ similar: this.id });
  }

  // --- the panel of facts ------------------------------------------------------------------------

  get isPanelOpen() {
    return this.dialog.classList.contains("with-panel");
  }

  setPanel(isOpen) {
    this.dialog.classList.toggle("with-panel", isOpen);
    this.infoButton.setAttribute("aria-pressed", String(isOpen));
    this.details.element.hidden = !isOpen;
    preference.write("panel", isOpen ? "open" : null);
    this.#fit();
  }

  openPanel(section) {
    this.setPanel(true);
    this.details.focus(section);
  }

  // --- the heat map ------------------------------------------------------------------------------

  toggleHeat() {
    if (!this.heatForm.hidden) {
      this.hideHeat();
      return;
    }
    this.heatForm.hidden = false;
    this.heatButton.setAttribute("aria-pressed", "true");
    const text = this.source.text;
    this.heatInput.value = text;
    if (text) this.showHeat(text);
    else this.heatInput.focus();
  }

  async showHeat(text) {
    if (!text || !this.id) return;
    const { id } = this;
    this.heatForm.hidden = false;
    this.heatButton.setAttribute("aria-pressed", "true");
    this.heatInput.value = text;
    this.heatPercent.value = "…";
    try {
      const response = await send(`/api/pictures/${id}/heatmap?text=${encodeURIComponent(text)}`);
      const probability = Number(response.headers.get("X-Probability"));
      const url = URL.createObjectURL(await response.blob());
      if (id !== this.id || this.heatForm.hidden) return;
      this.#dropHeat();
      this.heatPercent.value = formatPercent(probability);
      this.figure.append(h("img", { class: "heat", src: url, alt: `Heat map of ${text}` }));
    } catch (error) {
      this.heatPercent.value = "";
      toast(error.message);
    }
  }

  hideHeat() {
    this.#dropHeat();
    if (this.heatForm.contains(document.activeElement)) this.heatButton.focus();
    this.heatForm.hidden = true;
    this.heatPercent.value = "";
    this.heatButton.setAttribute("aria-pressed", "false");
  }

  #dropHeat() {
    const heat = this.figure.querySelector(".heat");
    if (!heat) return;
    URL.revokeObjectURL(heat.src);
    heat.remove();
  }

  // --- keys and fingers --------------------------------------------------------------------------

  #keydown(event) {
    event.stopPropagation(); // the keys of the page behind do not count
    if (event.key === "Escape" && isTyping(event)) {
      event.preventDefault();
      event.target.blur();
      this.dialog.focus();
      return;
    }
    if (isTyping(event) || event.target.closest("video")) return;
    const actions = {
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      i: () => this.setPanel(!this.isPanelOpen),
      t: () => this.openPanel("tags"),
      a: () => this.openPanel("ask"),
      h: () => this.toggleHeat(),
      s: () => this.showSimilar(),
      z: () => this.toggleZoom(),
      "?": showHelp,
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  #listenToSwipes() {
    let start = null;
    this.stage.addEventListener("pointerdown", (event) => {
      start = event.pointerType === "touch" && event.isPrimary && !this.isZoomed ? event : null;
    });
    this.stage.addEventListener("pointerup", (event) => {
      if (!start) return;
      const [x, y] = [event.clientX - start.clientX, event.clientY - start.clientY];
      start = null;
      if (Math.abs(x) > SWIPE && Math.abs(x) > 2 * Math.abs(y)) this.step(x < 0 ? 1 : -1);
      else if (y > SWIPE * 1.5 && y > 2 * Math.abs(x)) this.close();
    });
  }
}
