// Comparisons at equal budgets: verdicts in words, intervals as drawings, and all measurements as tables.

function comparisonSection() {
  const lead = data.comparisons.length
    ? "Each method is compared with random at the same budget. A difference counts only if its interval does not contain zero."
    : null;
  return section(
    "comparisons",
    "Comparisons",
    lead,
    data.comparisons.length
      ? data.comparisons.map(comparisonFigure)
      : absent(data.missing.comparisons ?? "No comparison includes these runs."),
  );
}

const loss4 = written(d3.format(".4f"));
const signed4 = written(d3.format("+.4f"));
const COMPARED = {
  method: { text: "method" },
  verdict: { text: "verdict" },
  mean: { text: "held-out loss", numeric: true, write: loss4 },
  spread: { text: "± spread", numeric: true, write: loss4 },
  difference: { text: "to random", numeric: true, write: signed4 },
  low: { text: "from", numeric: true, write: signed4 },
  high: { text: "to", numeric: true, write: signed4 },
  noise: { text: "noise kept", numeric: true, write: share },
  overhead: { text: "× ideal time", numeric: true, write: written(d3.format(".2f")) },
};
const SHARES = ["duplicates", "copies"];

/** Return the columns that have a value in any row: those of COMPARED in their order, or all others. */
function comparedColumns(rows, others) {
  const all = others
    ? ["method", ...new Set(rows.flatMap(Object.keys))].filter((key, place) => !place || !(key in COMPARED))
    : Object.keys(COMPARED);
  const shown = all.filter((key) => rows.some((row) => known(row[key]) && typeof row[key] !== "object"));
  const numeric = (key) => rows.every((row) => !known(row[key]) || typeof row[key] === "number");
  const head = (key) =>
    COMPARED[key] ?? {
      text: key.replaceAll("_", " "),
      numeric: numeric(key),
      write: SHARES.includes(key) ? share : undefined,
    };
  return {
    heads: shown.map((key) => ({ ...head(key), sort: true })),
    rows: rows.map((row) => shown.map((key) => row[key] ?? null)),
  };
}

function comparisonFigure(comparison) {
  const { name, axis, rows } = comparison;
  const unit = comparison.unit ?? axis;
  const verdicts = rows
    .filter((row) => row.verdict && known(row.difference))
    .map((row) => `${row.method}: ${row.verdict}`);
  const summary = verdicts.length ? `${verdicts.join("; ")}.` : `At ${count(comparison.budget)} ${unit}.`;
  const drawn = rows.filter((row) => known(row.low) && known(row.high));
  const body = drawn.length ? plot(summary, (width) => intervalDrawing(width, drawn)) : null;
  const others = comparedColumns(rows, true);
  return figure({
    title: h("span", {}, quoted(name), `, at ${count(comparison.budget)} ${unit}`),
    summary,
    body: [
      body,
      table({ caption: `Comparison ${name}`, ...comparedColumns(rows, false), kind: "compared" }),
      others.heads.length > 1
        ? disclosure(
            "All other measurements",
            table({ caption: `More of comparison ${name}`, ...others }),
            "print",
          )
        : null,
    ],
    note: comparison.note,
  });
}

/** Return a drawing of the differences to random with their intervals. Left of zero is a lower loss. */
function intervalDrawing(width, rows) {
  const left = Math.min(170, width * 0.3);
  const height = rows.length * 30 + 44;
  const [low, high] = d3.extent([0, ...rows.flatMap((row) => [row.low, row.high])]);
  const across = d3.scaleLinear([low, high], [left, width - 16]).nice(6);
  const ticks = across.ticks(Math.max(2, (width - left) / 90));
  const drawing = canvas(
    width,
    height,
    rules(across, ticks, {
      top: 22,
      bottom: height - 20,
      at: height - 4,
      write: (tick) => (tick === 0 ? "random" : d3.format("+")(tick)),
      mark: 0,
    }),
    svg(
      "g",
      { class: "axis" },
      svg("text", { class: "unit", x: across(0) - 8, y: 14, "text-anchor": "end" }, "← lower loss"),
      svg("text", { class: "unit", x: across(0) + 8, y: 14 }, width < 480 ? "higher →" : "higher loss →"),
    ),
  );
  rows.forEach((row, place) => {
    const y = 40 + place * 30;
    const clear = row.low > 0 || row.high < 0;
    drawing.append(
      svg("text", { class: "label", x: 0, y, dy: "0.32em" }, shortened(plain(row.method), Math.floor(left / 7.2))),
      svg("line", { class: "interval", x1: across(row.low), x2: across(row.high), y1: y, y2: y }),
      svg("circle", { class: clear ? "dot accent" : "dot hollow", cx: across(row.difference), cy: y, r: 5 }),
    );
  });
  return drawing;
}
