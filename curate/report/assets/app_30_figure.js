// Figures and tables. A figure has a heading, a sentence with the main result, a drawing, and the same data as a table.
// A click on a head of a table sorts the table.

const plots = []; // all drawings that follow the width of their box

/** Return a box that `draw(width)` fills with a drawing, again at each change of the width. */
function plot(sentence, draw) {
  const box = h("div", { class: "plot", role: "img", "aria-label": sentence });
  const entry = { box, draw, width: 0 };
  plots.push(entry);
  return box;
}

/** Redraw the drawings whose width has changed. All widths are read before the first drawing, for speed. */
function drawPlots(again = false) {
  const now = plots.map((entry) => ({ entry, width: entry.box.clientWidth }));
  for (const { entry, width } of now) {
    if (!width || (width === entry.width && !again)) continue;
    entry.width = width;
    const drawn = entry.draw(width);
    if (drawn) entry.box.replaceChildren(drawn);
  }
}

/** Return an empty drawing of a size. It scales with the page when the page is printed. */
const canvas = (width, height, ...children) =>
  svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, ...children);

/**
 * Return vertical lines at the ticks of a scale, from `top` to `bottom`, with their labels at height `at`. The line at
 * `mark`, the reference of the comparison, is highlighted. `anchor(tick)` is the text anchor of a label.
 */
const rules = (across, ticks, { top, bottom, at, write, mark = null, anchor = () => "middle" }) =>
  svg(
    "g",
    { class: "axis" },
    ticks.map((tick) => [
      svg("line", { class: tick === mark ? "chance" : "faint", x1: across(tick), x2: across(tick), y1: top, y2: bottom }),
      svg("text", { x: across(tick), y: at, "text-anchor": anchor(tick) }, write(tick)),
    ]),
  );

/**
 * Return a figure: heading, summary, legend, drawing, and a table with the same data. `summary` is a sentence, or a few
 * words for each run: [{run, words}].
 */
function figure({ title, summary, keys = null, body, table = null, note = null, wide = true }) {
  return h(
    "figure",
    { class: wide ? "wide" : null },
    h("figcaption", {}, title ? h("h3", {}, title) : null, summaryOf(summary)),
    keys,
    body,
    note ? h("p", { class: "note" }, note) : null,
    table ? disclosure("Show as a table", table) : null,
  );
}

const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Return the words for each run next to its mark and name, which is also the legend; one sentence for a single run. */
function summaryOf(summary) {
  if (!summary || !summary.length) return null;
  if (typeof summary === "string" || !several) return h("p", { class: "sentence" }, sentenceOf(summary));
  return h(
    "ul",
    { class: "summary" },
    summary.map(({ run, words }) => h("li", {}, runName(run), h("span", {}, words))),
  );
}

const sentenceOf = (summary) =>
  typeof summary === "string"
    ? summary
    : `${summary.map(({ run, words }) => (several ? `${runs[run].name}: ${words}` : upper(words))).join("; ")}.`;

const disclosure = (summary, content, kind = "") => h("details", { class: kind }, h("summary", {}, summary), content);

/** Return the reason why a part is missing, with the command that would make it as code. */
function absent(sentence) {
  const [, words, command] = /^(.*?)((?:\bcurate [a-z]+ .*)?)$/s.exec(sentence);
  return h("p", { class: "absent" }, words, command ? h("code", {}, spaced(command)) : null);
}

/** Return a command whose lines break only between its words, never after the hyphens of an option. */
const spaced = (command) =>
  command.split(" ").map((word, place) => [place ? " " : null, h("span", { class: "word" }, word)]);

/** Return the reasons why runs lack `part`. If all runs have the same reason, it appears once. */
function absentOf(part, fallback) {
  const reasons = runs.map((run) => run.missing[part] ?? data.missing[part]);
  const lacking = d3.range(runs.length).filter((index) => reasons[index]);
  if (!lacking.length) return fallback ? absent(fallback) : null;
  const first = reasons[lacking[0]];
  if (lacking.length === runs.length && reasons.every((reason) => reason === first)) return absent(first);
  return h(
    "div",
    {},
    lacking.map((index) => h("div", { class: "absent-of" }, several ? runName(index) : null, absent(reasons[index]))),
  );
}

/**
 * Return a table. Heads are {text, numeric, write, sort}; a cell is a value or a node. A head with `sort` is a button that
 * sorts by its values. Unknown values come last in both directions.
 */
function table({ caption, heads, rows, rowHeads = true, kind = "" }) {
  const body = h("tbody");
  const cells = heads.map((head, column) =>
    head.numeric && !head.write ? { ...head, write: decimals(rows.map((row) => row[column])) } : head,
  );
  const fill = (sorted) =>
    body.replaceChildren(
      ...sorted.map((row) =>
        h(
          "tr",
          {},
          row.map((value, column) => {
            const head = cells[column];
            const content =
              value instanceof Node ? value : head.write ? head.write(value) : known(value) ? value : NONE;
            const isHead = rowHeads && column === 0;
            return h(
              isHead ? "th" : "td",
              { scope: isHead ? "row" : null, class: head.numeric ? "number" : null },
              content,
            );
          }),
        ),
      ),
    );
  fill(rows);
  const heading = (head, column) => {
    const cell = h("th", { scope: "col", class: head.numeric ? "number" : null });
    if (!head.sort) return (cell.append(...readable(head.text)), cell);
    cell.append(h("button", { type: "button", click: () => fill(sortedBy(cell, column, rows)) }, head.text));
    return cell;
  };
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      { class: kind },
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, cells.map(heading))),
      body,
    ),
  );
}

function sortedBy(cell, column, rows) {
  const down = cell.getAttribute("aria-sort") === "descending";
  for (const other of cell.parentNode.children) other.removeAttribute("aria-sort");
  cell.setAttribute("aria-sort", down ? "ascending" : "descending");
  return [...rows].sort((a, b) => inOrder(a[column], b[column], down ? 1 : -1));
}

/** Compare two values for sorting in a direction. Unknown values come last in both directions. */
function inOrder(a, b, direction) {
  if (!known(a) || !known(b)) return known(b) - known(a);
  return direction * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
}

/** The small box next to the pointer. Its content is also in the table of the figure, so screen readers skip it. */
const tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });

function showTip(event, ...content) {
  tip.replaceChildren(h("div", {}, ...content));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.setProperty("left", `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`);
  tip.style.setProperty(
    "top",
    `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`,
  );
}

const hideTip = () => (tip.hidden = true);
