// The list of samples, with search, filters, sorting and pages. A sample opens inside the list.

const PAGE = 25;

class SampleList {
  constructor() {
    this.state = { words: [], filter: "all", labels: {}, run: 0, sort: { key: "position", down: false }, page: 0 };
    this.open = new Set();
    this.live = h("p", { class: "count", role: "status", "aria-live": "polite" });
    this.head = h("thead");
    this.body = h("tbody");
    this.pager = h("nav", { class: "pager", "aria-label": "Pages of samples" });
    this.sorter = h("div", { class: "sorter" });
    this.controls = this.makeControls();
    this.table = h("table", { class: "samples" }, h("caption", { class: "unseen" }, "Samples"), this.head, this.body);
    this.element = h(
      "div",
      { class: "sample-list" },
      this.controls,
      this.live,
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Samples" }, this.table),
      this.pager,
    );
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.update();
  }

  makeControls() {
    const search = h("input", {
      type: "search",
      id: "search",
      placeholder: "Words in prompt, answer, id or label",
      autocomplete: "off",
      spellcheck: "false",
    });
    search.addEventListener(
      "input",
      debounced(() => this.change({ words: search.value.toLowerCase().split(/\s+/).filter(Boolean) }), 150),
    );
    const filter = ([value, { word }]) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "filter",
          value,
          checked: value === "all",
          change: () => this.change({ filter: value, sort: FILTERS[value].sort ?? this.state.sort }),
        }),
        h("span", {}, word),
      );
    const run = h(
      "select",
      { change: ({ target }) => this.change({ run: Number(target.value) }) },
      runs.map((each, value) => h("option", { value }, each.name)),
    );
    return h(
      "div",
      { class: "controls list-controls" },
      h("label", { class: "search", for: "search" }, h("span", {}, "Search"), search),
      several ? h("label", {}, h("span", {}, "Run"), run) : null,
      Object.keys(samples.labels).map((by) => this.labelChoice(by)),
      h(
        "fieldset",
        { class: "choices" },
        h("legend", { class: "unseen" }, "Show"),
        Object.entries(FILTERS).map(filter),
      ),
      this.sorter,
    );
  }

  labelChoice(by) {
    const { values, codes } = samples.labels[by];
    const counts = d3.rollup(
      codes,
      (list) => list.length,
      (code) => code,
    );
    const present = d3.sort(
      d3.range(values.length).filter((code) => counts.has(code)),
      (code) => -counts.get(code),
    );
    if (!present.length) return null;
    const options = present.map((code) =>
      h("option", { value: code }, `${shortened(plain(values[code]), 40)} (${count(counts.get(code))})`),
    );
    const none = counts.has(-1) ? h("option", { value: -1 }, `none (${count(counts.get(-1))})`) : null;
    const choose = ({ target }) => {
      const { [by]: _, ...others } = this.state.labels;
      this.change({ labels: target.value === "" ? others : { ...others, [by]: target.value } });
    };
    return h(
      "label",
      {},
      h("span", {}, titled(BY[by] ?? by)),
      h("select", { change: choose }, h("option", { value: "" }, "any"), options, none),
    );
  }

  columns() {
    const names = Object.keys(samples.runs[this.state.run].columns);
    const own = Object.keys(samples.labels).filter((by) => by === "source");
    return [
      { key: "prompt", text: "sample" },
      ...own.map((key) => ({ key, text: BY[key] })),
      { key: "tokens", text: "tokens", numeric: true },
      { key: "offered", text: "offered", numeric: true },
      { key: "kept", text: "kept", numeric: true },
      ...names.map((key) => ({
        key,
        text: key.replaceAll("_", " "),
        numeric: true,
        write: decimals(samples.runs[this.state.run].columns[key]),
      })),
    ];
  }

  change(changes) {
    Object.assign(this.state, { page: 0 }, changes);
    this.open.clear();
    this.update();
  }

  update() {
    const { sort, page } = this.state;
    const columns = this.columns();
    if (sort.key !== "position" && !columns.some((column) => column.key === sort.key))
      this.state.sort = { key: "position", down: false };
    this.found = chosenSamples(this.state);
    this.head.replaceChildren(
      h(
        "tr",
        {},
        columns.map((column) => this.heading(column)),
      ),
    );
    this.sorter.replaceChildren(this.sortChoice(columns));
    const rows = this.found.slice(page * PAGE, (page + 1) * PAGE);
    this.body.replaceChildren(...rows.flatMap((sample) => this.row(sample, columns)));
    if (!rows.length)
      this.body.append(
        h(
          "tr",
          {},
          h(
            "td",
            { colspan: columns.length, class: "nothing" },
            "No sample matches. Search for fewer words, or show all samples.",
          ),
        ),
      );
    const all = this.found.length === samples.id.length;
    this.live.textContent = all
      ? `All ${numbered(samples.id.length, "sample")}.`
      : `${count(this.found.length)} of ${numbered(samples.id.length, "sample")}.`;
    this.fillPager();
  }

  heading({ key, text, numeric }) {
    const { sort } = this.state;
    const sorted = sort.key === key;
    const act = () => this.change({ sort: { key, down: sorted ? !sort.down : Boolean(numeric) } });
    const button = h(
      "button",
      {
        type: "button",
        click: () => (act(), this.head.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus()),
        "data-key": key,
      },
      text,
    );
    return h(
      "th",
      {
        scope: "col",
        class: this.kind(key, numeric),
        "aria-sort": sorted ? (sort.down ? "descending" : "ascending") : null,
      },
      button,
    );
  }

  kind(key, numeric) {
    const minor = !["prompt", "kept", this.state.sort.key].includes(key);
    return [numeric ? "number" : "", minor ? "minor" : "", key === "prompt" ? "sample" : ""].join(" ").trim() || null;
  }

  sortChoice(columns) {
    const { sort } = this.state;
    const keys = [{ key: "position", text: "row of the pool" }, ...columns];
    const options = keys.map(({ key, text }) => h("option", { value: key, selected: key === sort.key }, text));
    const turn = h(
      "button",
      { type: "button", class: "quiet", click: () => this.change({ sort: { ...sort, down: !sort.down } }) },
      sort.down ? "largest first" : "smallest first",
    );
    return h(
      "div",
      {},
      h(
        "label",
        {},
        h("span", {}, "Sort by"),
        h(
          "select",
          {
            change: ({ target }) =>
              this.change({
                sort: { key: target.value, down: !["position", "prompt", "source"].includes(target.value) },
              }),
          },
          options,
        ),
      ),
      turn,
    );
  }

  row(sample, columns) {
    const open = this.open.has(sample);
    const toggle = () => {
      open ? this.open.delete(sample) : this.open.add(sample);
      this.update();
      this.body.querySelector(`[data-sample="${sample}"]`)?.focus();
    };
    const button = h(
      "button",
      { type: "button", class: "sample-button", "aria-expanded": String(open), "data-sample": sample, click: toggle },
      quoted(this.snippet(samples.prompt[sample]), this.state.words),
    );
    const cells = columns.map(({ key, numeric, write }) => {
      if (key === "prompt") return h("th", { scope: "row", class: "sample" }, button);
      const value = columnOf(key, this.state.run)[sample];
      return h(
        "td",
        { class: this.kind(key, numeric) },
        numeric ? (write ?? count)(value) : known(value) ? quoted(value) : NONE,
      );
    });
    const row = h("tr", { class: open ? "opened" : null }, cells);
    return open
      ? [
          row,
          h("tr", { class: "detail" }, h("td", { colspan: columns.length }, sampleDetail(sample, this.state.words))),
        ]
      : [row];
  }

  /** Return the start of a text, or the part around the first search word. */
  snippet(text) {
    const at = this.state.words.length ? text.toLowerCase().indexOf(this.state.words[0]) : -1;
    const start = at > 100 ? at - 60 : 0;
    const line = text.slice(start, start + 190).replace(/[ \n\r\t]+/g, " ");
    return `${start ? "… " : ""}${line}${text.length > start + 190 ? " …" : ""}`;
  }

  fillPager() {
    const pages = Math.max(1, Math.ceil(this.found.length / PAGE));
    const go = (page, word) => () => {
      this.state.page = page;
      this.open.clear();
      this.update();
      [...this.pager.querySelectorAll("button")]
        .find((button) => button.textContent === word && !button.disabled)
        ?.focus();
    };
    const { page } = this.state;
    const button = (word, target) =>
      h("button", { type: "button", disabled: target < 0 || target >= pages, click: go(target, word) }, word);
    this.pager.replaceChildren(
      button("Previous", page - 1),
      h("span", {}, `Page ${count(page + 1)} of ${count(pages)}`),
      button("Next", page + 1),
    );
    this.pager.hidden = pages === 1;
  }

  /** Move between samples with the arrow keys Up and Down. */
  key(event) {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!way || !event.target.matches(".sample-button")) return;
    const buttons = [...this.body.querySelectorAll(".sample-button")];
    buttons[buttons.indexOf(event.target) + way]?.focus();
    event.preventDefault();
  }
}
