// The map of the pool, with one dot per sample. A canvas shows the dots (50,000 in a few hundredths of a second), a
// quadtree finds the dot under the pointer, and the arrow keys move between dots.

const PIXELS = 22; // largest distance at which the pointer selects a dot

function mapFigure() {
  const { x, y, method, of, explained } = data.map;
  const placed = d3.range(samples.id.length).filter((sample) => known(x[sample]) && known(y[sample]));
  if (!placed.length) return absent("No sample of this report has a position on the map.");
  const state = {
    run: 0,
    by: "times kept",
    only: null,
    zoom: d3.zoomIdentity,
    at: null,
    width: 0,
    height: 0,
    dots: [],
  };
  const view = new MapView(state, placed, x, y);
  const variance = explained ? `, which explain ${share(d3.sum(explained))} of the variance` : "";
  const sentence = `${numbered(placed.length, "sample")} of the pool, placed by the ${of} on two axes of ${method}${variance}. Similar samples are close together.`;
  return figure({
    title: null,
    summary: sentence,
    body: [view.controls, view.box, view.words],
    keys: view.keys,
    table: view.table,
    note: "Point at a dot to read its sample, and click to open it. On the keyboard, the arrow keys move from dot to dot, Enter opens the sample, and + and − zoom.",
  });
}

class MapView {
  constructor(state, placed, x, y) {
    Object.assign(this, { state, placed, x, y });
    this.surface = h("canvas", {
      tabindex: 0,
      role: "application",
      "aria-roledescription": "map",
      "aria-label": "Map of the pool. The arrow keys move from sample to sample, Enter opens a sample.",
      "aria-describedby": "map-words",
    });
    this.words = h("p", { id: "map-words", class: "unseen", "aria-live": "polite" });
    this.tip = h("div", { class: "map-tip", hidden: true });
    this.ring = h("div", { class: "map-ring", hidden: true });
    this.box = h("div", { class: "map" }, this.surface, this.ring, this.tip, this.zoomButtons());
    this.keys = h("ul", { class: "keys" });
    this.table = h("div");
    this.controls = this.makeControls();
    this.listen();
    plots.push({ box: this.box, width: 0, draw: (width) => this.resize(width) });
    repaints.push(() => (this.recolour(), this.paint()));
    this.recolour();
  }

  makeControls() {
    const labels = Object.keys(samples.labels).filter(
      (by) => by !== "noise" || samples.labels.noise.codes.some((code) => code >= 0),
    );
    const choose = (key, options) =>
      h(
        "select",
        {
          change: ({ target }) => {
            this.state[key] = key === "run" ? Number(target.value) : target.value;
            this.state.only = null;
            this.recolour();
            this.paint();
          },
        },
        options,
      );
    const by = choose(
      "by",
      ["times kept", ...labels].map((value) =>
        h("option", { value }, value === "times kept" ? value : (BY[value] ?? value)),
      ),
    );
    const run = choose(
      "run",
      runs.map((each, value) => h("option", { value }, each.name)),
    );
    return h(
      "div",
      { class: "controls" },
      h("label", {}, "Colour by ", by),
      several ? h("label", {}, "Run ", run) : null,
    );
  }

  zoomButtons() {
    const button = (label, sign, act) =>
      h("button", { type: "button", "aria-label": label, title: label, click: act }, sign);
    return h(
      "div",
      { class: "zoom" },
      button("Zoom in", "+", () => this.zoomBy(1.6)),
      button("Zoom out", "−", () => this.zoomBy(1 / 1.6)),
      button("Show the whole map", "⤢", () => d3.select(this.surface).call(this.zoom.transform, d3.zoomIdentity)),
    );
  }

  zoomBy(factor) {
    d3.select(this.surface).call(this.zoom.scaleBy, factor);
  }

  listen() {
    const fits = (event) =>
      event.type === "wheel"
        ? event.ctrlKey || event.metaKey
        : event.type.startsWith("touch")
          ? event.touches.length > 1
          : !event.button && this.state.zoom.k > 1;
    this.zoom = d3
      .zoom()
      .scaleExtent([1, 40])
      .filter(fits)
      .on("zoom", ({ transform }) => ((this.state.zoom = transform), this.place(), this.paint()));
    d3.select(this.surface).call(this.zoom).on("dblclick.zoom", null).style("touch-action", "pan-y");
    this.surface.addEventListener(
      "pointermove",
      (event) => event.pointerType !== "touch" && this.show(this.near(event)),
    );
    this.surface.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && this.show(null));
    this.surface.addEventListener("click", (event) => {
      const sample = this.near(event);
      if (event.pointerType === "touch") this.show(sample, true);
      else if (sample !== null) openSample(sample, this.state.run);
    });
    this.surface.addEventListener("keydown", (event) => this.key(event));
    this.surface.addEventListener(
      "focus",
      () => this.surface.matches(":focus-visible") && this.show(this.state.at ?? this.middle(), true),
    );
    this.box.addEventListener("focusout", (event) => this.box.contains(event.relatedTarget) || this.show(null));
  }

  /** Set the size of the map. It has the aspect ratio of the data, within limits, and the same scale on both axes. */
  resize(width) {
    const [left, right] = d3.extent(this.placed, (sample) => this.x[sample]);
    const [low, high] = d3.extent(this.placed, (sample) => this.y[sample]);
    const margin = 18;
    const height = Math.round(
      Math.max(width * 0.5, Math.min(width * 0.95, 620, ((high - low) / (right - left || 1)) * width)),
    );
    const scale = Math.min((width - 2 * margin) / (right - left || 1), (height - 2 * margin) / (high - low || 1));
    this.across = (sample) => width / 2 + (this.x[sample] - (left + right) / 2) * scale;
    this.up = (sample) => height / 2 - (this.y[sample] - (low + high) / 2) * scale;
    Object.assign(this.state, { width, height });
    this.surface.style.setProperty("height", `${height}px`);
    this.zoom
      .translateExtent([
        [0, 0],
        [width, height],
      ])
      .extent([
        [0, 0],
        [width, height],
      ]);
    this.place();
    this.paint();
  }

  place() {
    const { zoom } = this.state;
    this.left = new Float32Array(samples.id.length);
    this.top = new Float32Array(samples.id.length);
    for (const sample of this.placed)
      [this.left[sample], this.top[sample]] = zoom.apply([this.across(sample), this.up(sample)]);
    this.tree = null; // made when the user first points at the map
  }

  near(event) {
    this.tree ??= d3.quadtree(
      this.placed,
      (sample) => this.left[sample],
      (sample) => this.top[sample],
    );
    return this.tree.find(...d3.pointer(event, this.surface), PIXELS) ?? null;
  }

  recolour() {
    this.shown = mapGroups(this.placed, this.state.by, this.state.run);
    const press = (word) => {
      this.state.only = this.state.only === word ? null : word;
      this.recolour();
      this.paint();
    };
    this.keys.replaceChildren(
      ...this.shown.map((group) => {
        const swatch = h("span", { class: "swatch round", style: { background: group.colour }, "aria-hidden": "true" });
        return h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              class: "key-button",
              "aria-pressed": String(this.state.only === group.word),
              title: "Show only this group",
              click: () => press(group.word),
            },
            swatch,
            group.word,
            h("small", {}, count(group.members.length)),
          ),
        );
      }),
    );
    const { kept } = samples.runs[this.state.run];
    const rows = this.shown.map((group) => [
      group.word,
      group.members.length,
      group.members.length / this.placed.length,
      d3.mean(group.members, (sample) => kept[sample] > 0),
    ]);
    const heads = [
      { text: this.state.by, sort: true },
      { text: "samples", numeric: true, write: count, sort: true },
      { text: "of the map", numeric: true, write: share, sort: true },
      { text: "kept at least once", numeric: true, write: share, sort: true },
    ];
    this.table.replaceChildren(table({ caption: `Samples on the map by ${this.state.by}`, heads, rows }));
  }

  paint() {
    const { width, height, only } = this.state;
    if (!width) return;
    const density = devicePixelRatio || 1;
    Object.assign(this.surface, { width: width * density, height: height * density });
    const pen = this.surface.getContext("2d");
    pen.scale(density, density);
    const radius =
      Math.max(1.2, Math.min(4.5, (0.18 * width) / Math.sqrt(this.placed.length))) *
      Math.sqrt(Math.sqrt(this.state.zoom.k));
    for (const group of this.shown) {
      pen.globalAlpha = only === null ? 0.85 : group.word === only ? 0.95 : 0.08;
      pen.fillStyle = group.colour;
      pen.beginPath();
      for (const sample of group.members)
        dot(pen, this.left[sample], this.top[sample], radius * group.size, this.placed.length);
      pen.fill();
    }
    this.moveRing();
  }

  moveRing() {
    const { at } = this.state;
    this.ring.hidden = at === null;
    if (at === null) return;
    this.ring.style.setProperty("left", `${this.left[at]}px`);
    this.ring.style.setProperty("top", `${this.top[at]}px`);
  }

  /** Mark a sample and show its text. `announce` also gives it to screen readers. Null hides it. */
  show(sample, announce = false) {
    if (sample === this.state.at && !announce) return;
    this.state.at = sample;
    this.moveRing();
    this.tip.hidden = sample === null;
    this.surface.style.setProperty("cursor", sample === null ? "default" : "pointer");
    if (sample === null) return;
    const facts = factsOf(sample, this.state.run);
    this.tip.replaceChildren(
      h("p", { class: "asked" }, quoted(shortened(samples.prompt[sample], 260))),
      h("p", { class: "answered" }, quoted(shortened(samples.answer[sample], 200))),
      h("p", { class: "facts" }, facts),
      announce ? h("button", { type: "button", click: () => openSample(sample, this.state.run) }, "Open the sample") : null,
    );
    if (announce) this.words.replaceChildren(...readable(`${shortened(samples.prompt[sample], 260)} — ${facts}`));
    const { width, height } = this.tip.getBoundingClientRect();
    const [left, top] = [this.left[sample], this.top[sample]];
    this.tip.style.setProperty("left", `${Math.max(0, Math.min(left + 14, this.state.width - width))}px`);
    this.tip.style.setProperty(
      "top",
      `${top + 16 + height > this.state.height && top - height - 16 > 0 ? top - height - 16 : top + 16}px`,
    );
  }

  middle() {
    return d3.least(this.placed, (sample) =>
      Math.hypot(this.left[sample] - this.state.width / 2, this.top[sample] - this.state.height / 2),
    );
  }

  key(event) {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) this.show(neighbourOnMap(this.placed, this.left, this.top, this.state.at ?? this.middle(), step), true);
    else if (event.key === "Enter" && this.state.at !== null) openSample(this.state.at, this.state.run);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.6);
    else if (event.key === "-") this.zoomBy(1 / 1.6);
    else if (event.key === "Escape") this.show(null);
    else return;
    event.preventDefault();
  }
}
