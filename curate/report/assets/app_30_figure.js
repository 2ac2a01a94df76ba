// What holds a drawing: a figure with its heading, the sentence that says what is to be seen, and the same as a table.
// And tables, whose heads sort them.

const plots = []; // every drawing that follows the width of its box

/** A box that `draw(width)` fills with a drawing, again whenever the width changes. */
function plot(sentence, draw) {
  const box = h("div", { class: "plot", role: "img", "aria-label": sentence });
  const entry = { box, draw, width: 0 };
  plots.push(entry);
  return box;
}

/** Draws what is not drawn at the width it has now; all widths are read before anything is drawn. */
function drawPlots(again = false) {
  const now = plots.map((entry) => ({ entry, width: entry.box.clientWidth }));
  for (const { entry, width } of now) {
    if (!width || (width === entry.width && !again)) continue;
    entry.width = width;
    const drawn = entry.draw(width);
    if (drawn) entry.box.replaceChildren(drawn);
  }
}

/** An empty drawing of a size, which scales where the page does (on paper). */
const canvas = (width, height, ...children) =>
  svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, ...children);

/**
 * Upright rules at the ticks of a scale, from `top` to `bottom`, with their words at `at`; the rule at `mark`, which all
 * is compared with, stands out. `anchor(tick)` says where the words hang, in the middle by default.
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
 * A figure: heading, what is to be seen, key, what is drawn, and the table that says the same. `told` is a sentence,
 * or a few words for each run: [{run, words}].
 */
function figure({ title, told, keys = null, body, table = null, note = null, wide = true }) {
  return h(
    "figure",
    { class: wide ? "wide" : null },
    h("figcaption", {}, title ? h("h3", {}, title) : null, toldOf(told)),
    keys,
    body,
    note ? h("p", { class: "note" }, note) : null,
    table ? disclosure("The same as a table", table) : null,
  );
}

const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The words of every run beside its mark and name, which makes them the key, too; a sentence for a single run. */
function toldOf(told) {
  if (!told || !told.length) return null;
  if (typeof told === "string" || !several) return h("p", { class: "sentence" }, sentenceOf(told));
  return h(
    "ul",
    { class: "told" },
    told.map(({ run, words }) => h("li", {}, runName(run), h("span", {}, words))),
  );
}

const sentenceOf = (told) =>
  typeof told === "string"
    ? told
    : `${told.map(({ run, words }) => (several ? `${runs[run].name}: ${words}` : upper(words))).join("; ")}.`;

const disclosure = (summary, content, kind = "") => h("details", { class: kind }, h("summary", {}, summary), content);

/** Why something is not there; the command that would make it is set as one. */
function absent(sentence) {
  const [, words, command] = /^(.*?)((?:\bcurate [a-z]+ .*)?)$/s.exec(sentence);
  return h("p", { class: "absent" }, words, command ? h("code", {}, spaced(command)) : null);
}

/** A command whose lines break between its words only: never after the hyphens of an option. */
const spaced = (command) =>
  command.split(" ").map((word, place) => [place ? " " : null, h("span", { class: "word" }, word)]);

/** The reasons of all runs why they lack `part`; one that all give is given once. */
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
 * A table. Heads: {text, numeric, write, plain}; a cell is a value, or a node; where any head has `sort`, heads are
 * buttons that sort by the values (nothing known comes last, either way round).
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

/** -1, 0 or 1, as sort wants it, in a direction; what is not known comes last whatever the direction. */
function inOrder(a, b, direction) {
  if (!known(a) || !known(b)) return known(b) - known(a);
  return direction * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
}

/** The small box beside the pointer. What it says is in the figure's table, too, so readers of the screen skip it. */
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
