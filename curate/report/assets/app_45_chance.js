// The kept samples of each group, compared with the number that a random choice would keep.

const BY = { source: "source", cluster: "cluster", length: "length", family: "family", noise: "kind of noise" };
const MOST_ROWS = 12;

/** Return what a run kept of each group as a multiple of a random choice, or null if a random choice keeps nothing. */
function ratiosOf(group, index) {
  return group.labels.map((label, row) => {
    const chance = group.chance[index]?.[row];
    if (!chance || !known(group.kept[index]?.[row])) return null;
    const [kept, low, high] = [group.kept[index][row], group.low[index][row], group.high[index][row]];
    const verdict = kept > high ? "more" : kept < low ? "less" : "chance";
    return {
      label: group.by === "cluster" && /^\d/.test(label) ? `cluster ${label}` : label,
      row,
      kept,
      chance,
      ratio: kept / chance,
      low: low / chance,
      high: high / chance,
      verdict,
    };
  });
}

function groupFigure(group) {
  const ratios = d3.range(runs.length).map((index) => ratiosOf(group, index));
  const rows = rowsOf(group, ratios);
  if (rows.length < 2) return oneGroup(group, rows);
  let all = rows.length <= MOST_ROWS;
  const summary = d3.range(runs.length).map((run) => ({ run, words: favoured(ratios[run]) }));
  const body = plot(sentenceOf(summary), (width) => chanceDrawing(width, all ? rows : mostMarked(rows, ratios), ratios));
  const more = () => {
    all = !all;
    toggle.textContent = all ? "Show only the largest differences" : `Show all ${rows.length}`;
    drawPlots(true);
  };
  const toggle = h("button", { type: "button", class: "quiet", click: more }, `Show all ${rows.length}`);
  return figure({
    title: groupTitle(group),
    summary,
    body: [body, rows.length > MOST_ROWS ? toggle : null],
    table: groupTable(group, ratios),
  });
}

/** Return the figure of a grouping with a single group, in which no group can be preferred. */
function oneGroup(group, rows) {
  const named = rows.map((row) => plain(group.labels[row])).join("");
  const summary = named ? `All candidates are in the same group: ${named}.` : "No candidate is in a group.";
  return h("figure", { class: "wide" }, h("figcaption", {}, h("h3", {}, groupTitle(group)), summaryOf(summary)));
}

const groupTitle = (group) => `By ${group.title ?? BY[group.by] ?? group.by}`;

/** Return the rows by their multiple, the largest first. Lengths stay in their order. */
function rowsOf(group, ratios) {
  const rows = d3.range(group.labels.length).filter((row) => ratios.some((run) => run[row]));
  return group.by === "length" ? rows : d3.sort(rows, (row) => -(d3.mean(ratios, (run) => run[row]?.ratio) ?? 0));
}

function mostMarked(rows, ratios) {
  const mark = (row) => d3.max(ratios, (run) => (run[row] ? Math.abs(run[row].kept - run[row].chance) : 0));
  const chosen = new Set(d3.sort(rows, (row) => -mark(row)).slice(0, MOST_ROWS));
  return rows.filter((row) => chosen.has(row));
}

function favoured(ratios) {
  const some = (verdict, order) => {
    const found = d3
      .sort(
        ratios.filter((entry) => entry?.verdict === verdict),
        order,
      )
      .slice(0, 3);
    return listed(found.map((entry) => `${plain(entry.label)} (${times(entry.ratio)})`));
  };
  const more = some("more", (entry) => -entry.ratio);
  const less = some("less", (entry) => entry.ratio);
  if (!more && !less) return "the same as by chance";
  return [more && `more of ${more}`, less && `less of ${less}`].filter(Boolean).join("; ");
}

/**
 * Return a drawing with a row per group, and in it a line per run. The band holds 19 of 20 random choices, and the dot is
 * the kept share. A dot outside its band is filled, a dot inside is hollow.
 */
function chanceDrawing(width, rows, ratios) {
  const each = several ? 15 : 22;
  const tall = Math.max(26, each * runs.length + 12);
  const labels = rows.map((row) => plain(ratios.map((run) => run[row]).find(known).label));
  const left = Math.min(190, width * 0.3, 24 + 7 * d3.max(labels, (label) => label.length));
  const right = width < 560 ? 66 : 225;
  const height = rows.length * tall + 44;
  const cells = rows.flatMap((row) => ratios.map((run) => run[row])).filter(known);
  const most = Math.min(6, Math.max(2, d3.max(cells, (cell) => Math.max(cell.ratio, cell.high)) * 1.05));
  const across = d3.scaleLinear([0, most], [left, width - right]).clamp(true);
  const drawing = canvas(
    width,
    height,
    ratioAxis(across, height),
    valueCells(width, 12, "unit", ["kept", "by chance", "multiple"]),
  );
  rows.forEach((row, place) => {
    const top = 24 + place * tall;
    drawing.append(svg("line", { class: "row", x1: 0, x2: width, y1: top + tall, y2: top + tall }));
    drawing.append(
      svg(
        "text",
        { class: "label", x: 0, y: top + tall / 2, dy: "0.32em" },
        shortened(labels[place], Math.floor(left / 7)),
      ),
    );
    ratios.forEach((run, index) => {
      if (run[row])
        drawing.append(
          chanceMark(run[row], index, across, top + tall / 2 + (index - (runs.length - 1) / 2) * each, width),
        );
    });
  });
  return drawing;
}

function ratioAxis(across, height) {
  const ticks = across.ticks(Math.max(2, (across.range()[1] - across.range()[0]) / 110));
  const write = (tick) => (tick === 1 ? "chance" : `${tick}×`);
  return rules(across, ticks, { top: 22, bottom: height - 20, at: 16, write, mark: 1 });
}

function chanceMark(cell, index, across, y, width) {
  const outside = cell.verdict !== "chance";
  const [low, high] = [across(cell.low), across(cell.high)];
  const over = (event) =>
    showTip(
      event,
      h("strong", {}, cell.label),
      several ? h("div", {}, runName(index)) : null,
      h(
        "div",
        {},
        `${share(cell.kept)} of the kept samples; by chance ${share(cell.chance)}, in 19 of 20 random choices ${share(cell.low * cell.chance)} to ${share(cell.high * cell.chance)}`,
      ),
    );
  return svg(
    "g",
    { pointermove: over, pointerleave: hideTip },
    svg("rect", {
      x: across.range()[0],
      y: y - 8,
      width: Math.max(0, width - across.range()[0]),
      height: 16,
      fill: "transparent",
    }),
    svg("rect", { class: "band", x: low, y: y - 5, width: Math.max(1, high - low), height: 10, rx: 5 }),
    outside
      ? svg("line", {
          class: "stem",
          x1: across(1),
          x2: across(cell.ratio),
          y1: y,
          y2: y,
          style: { stroke: colourOf(index) },
        })
      : null,
    svg("path", {
      class: outside ? "dot" : "dot hollow",
      d: markOf(index, 70),
      transform: `translate(${across(cell.ratio)} ${y})`,
      style: { fill: outside ? colourOf(index) : "var(--paper)", stroke: colourOf(index) },
    }),
    valueCells(width, y, outside ? "value strong" : "value", [share(cell.kept), share(cell.chance), times(cell.ratio)]),
  );
}

/** Return the numbers at the right end of a row, in columns; on a narrow page only the last one. */
const valueCells = (width, y, kind, words) =>
  words.map((word, place) =>
    place < 2 && width < 560
      ? null
      : svg("text", { class: kind, x: width - 76 * (2 - place), y, dy: "0.32em", "text-anchor": "end" }, word),
  );

const VERDICTS = { more: "more than by chance", less: "less than by chance", chance: "same as by chance" };

function groupTable(group, ratios) {
  const heads = [
    { text: BY[group.by] ?? group.by, sort: true },
    ...(several ? [{ text: "run", sort: true }] : []),
    ...["of the pool", "by chance", "kept"].map((text) => ({ text, numeric: true, write: share, sort: true })),
    { text: "multiple", numeric: true, write: times, sort: true },
    { text: "verdict", sort: true },
  ];
  const rows = ratios.flatMap((run, index) =>
    run
      .filter(known)
      .map((cell) => [
        cell.label,
        ...(several ? [runs[index].name] : []),
        group.pool[cell.row],
        cell.chance,
        cell.kept,
        cell.ratio,
        VERDICTS[cell.verdict],
      ]),
  );
  return table({ caption: `Kept samples by ${BY[group.by] ?? group.by}`, heads, rows });
}
