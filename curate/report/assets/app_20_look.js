// The look of a run in all figures (a colour, a dash pattern and a mark, so that colour is never the only difference), and
// the light and the dark theme.

const COLOURS = 8;
const DASHES = ["none", "7 3", "2 3", "9 3 2 3", "4 2", "1 3", "12 4", "6 2 1 2"];
const MARKS = [
  d3.symbolCircle,
  d3.symbolSquare,
  d3.symbolTriangle,
  d3.symbolDiamond,
  d3.symbolCross,
  d3.symbolStar,
  d3.symbolWye,
  d3.symbolCircle,
];
const several = runs.length > 1;

const colourOf = (index) => `var(--run-${index % COLOURS})`;
const dashOf = (index) => DASHES[index % DASHES.length];
const markOf = (index, size = 50) => d3.symbol(MARKS[index % MARKS.length], size)();

/** Return the mark and the name of a run. */
const runName = (index) => h("span", { class: "run-name" }, runMark(index), quoted(runs[index].name));

const runMark = (index) =>
  svg(
    "svg",
    { class: "key", viewBox: "0 0 28 14", width: 28, height: 14, "aria-hidden": "true" },
    svg("path", {
      d: "M1 7H27",
      fill: "none",
      "stroke-width": 2,
      "stroke-dasharray": dashOf(index),
      style: { stroke: colourOf(index) },
    }),
    svg("path", { d: markOf(index), transform: "translate(14 7)", style: { fill: colourOf(index) } }),
  );

/** Return the legend of a figure with several runs, or null for a single run. */
const runKey = (shown = d3.range(runs.length)) =>
  several
    ? h(
        "ul",
        { class: "keys", "aria-label": "Runs" },
        shown.map((run) => h("li", {}, runName(run))),
      )
    : null;

/** Return a legend entry that is not a run: a swatch with a class of the style sheet, and a word. */
const keyEntry = (kind, word) => h("li", {}, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), word);

/** Return the current value of a colour variable of the style sheet, because a canvas cannot use variables. */
function computedColour(variable) {
  const probe = h("span", { style: { color: `var(${variable})` } });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const repaints = []; // functions to call when the colours change

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  repaints.forEach((repaint) => repaint());
}

function themeSwitch() {
  const choice = (theme) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: "theme",
        value: theme,
        checked: theme === "system",
        change: () => setTheme(theme),
      }),
      h("span", {}, theme),
    );
  return h(
    "fieldset",
    { class: "choices theme" },
    h("legend", { class: "unseen" }, "Colours"),
    ["system", "light", "dark"].map(choice),
  );
}

/** Print in the light theme, also if the screen is dark. */
function lightOnPaper() {
  let before = "system";
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme ?? "system";
    setTheme("light");
    for (const details of document.querySelectorAll("details.print")) details.open = true;
  });
  addEventListener("afterprint", () => setTheme(before));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaints.forEach((repaint) => repaint()));
}
