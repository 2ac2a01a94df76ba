// Curves over steps: losses, kept share and scores. The panels of a figure share their axes.

const LINES = { top: 10, right: 14, bottom: 30, left: 48 };

/**
 * Return a drawing of lines. A line is {name, step, value, colour, dash, mark, faint}; `x` and `y` are the shared domains.
 * A box next to the pointer shows the values at its step.
 */
function linesDrawing(width, lines, { x, y, height = 240, write = number, ends = false }) {
  const right = ends
    ? Math.min(170, 24 + 7.8 * d3.max(lines, (line) => (line.faint ? 0 : line.name.length)))
    : LINES.right;
  const across = d3.scaleLinear(x, [LINES.left, width - right]);
  const up = d3.scaleLinear(y, [height - LINES.bottom, LINES.top]).nice(5);
  const drawing = canvas(width, height, gridOf(up, width - right, write), stepsAxis(across, height));
  for (const line of lines) drawing.append(...lineMarks(line, across, up));
  if (ends)
    drawing.append(
      ...endLabels(
        lines.filter((line) => !line.faint),
        across,
        up,
      ),
    );
  const rule = svg("line", { class: "rule", y1: LINES.top, y2: height - LINES.bottom, visibility: "hidden" });
  const over = svg("rect", {
    x: LINES.left,
    width: Math.max(0, width - right - LINES.left),
    height: height - LINES.bottom,
    fill: "transparent",
  });
  over.addEventListener("pointermove", (event) => {
    const step = Math.round(across.invert(d3.pointer(event, drawing)[0]));
    rule.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) rule.setAttribute(end, across(step));
    showTip(event, ...valuesAt(lines, step, write));
  });
  over.addEventListener("pointerleave", () => (hideTip(), rule.setAttribute("visibility", "hidden")));
  drawing.append(rule, over);
  return drawing;
}

function gridOf(up, right, write) {
  const ticks = up.ticks(5);
  const style = write === share ? d3.format(".0%") : up.tickFormat(5);
  return svg(
    "g",
    { class: "grid" },
    ticks.map((tick) => [
      svg("line", { x1: LINES.left, x2: right, y1: up(tick), y2: up(tick) }),
      svg("text", { x: LINES.left - 8, y: up(tick), dy: "0.32em", "text-anchor": "end" }, style(tick)),
    ]),
  );
}

function stepsAxis(across, height) {
  const ticks = across
    .ticks(Math.max(2, Math.min(8, (across.range()[1] - across.range()[0]) / 80)))
    .filter(Number.isInteger);
  return svg("g", { class: "axis" }, [
    svg("line", { x1: across.range()[0], x2: across.range()[1], y1: height - LINES.bottom, y2: height - LINES.bottom }),
    ticks.map((tick) => svg("text", { x: across(tick), y: height - 10, "text-anchor": "middle" }, count(tick))),
    svg(
      "text",
      { class: "unit", x: across.range()[1], y: height - 10, "text-anchor": "end" },
      ticks.at(-1) > across.domain()[1] * 0.9 ? "" : "step",
    ),
  ]);
}

function lineMarks(line, across, up) {
  const points = d3.zip(line.step, line.value);
  const path = d3
    .line(
      ([step]) => across(step),
      ([, value]) => up(value),
    )
    .defined(([, value]) => known(value))(points);
  const drawn = [
    svg("path", {
      class: line.faint ? "line faint" : "line",
      d: path,
      "stroke-dasharray": line.dash ?? "none",
      style: { stroke: line.colour },
    }),
  ];
  if (!line.mark) return drawn;
  const every = Math.max(1, Math.ceil(points.length / 8));
  const marked = points.filter(([, value], index) => known(value) && (index % every === 0 || points.length < 24));
  return [
    ...drawn,
    ...marked.map(([step, value]) =>
      svg("path", {
        class: "mark",
        d: line.mark,
        transform: `translate(${across(step)} ${up(value)})`,
        style: { fill: line.colour },
      }),
    ),
  ];
}

/** Return names at the ends of the lines, moved apart if they would overlap. */
function endLabels(lines, across, up) {
  const ends = lines
    .map((line) => ({
      line,
      at: d3.findLast?.(line.value, known) ?? line.value.findLast(known),
      step: line.step[line.value.findLastIndex(known)],
    }))
    .filter((end) => known(end.at))
    .map((end) => ({ ...end, y: up(end.at) }))
    .sort((a, b) => a.y - b.y);
  for (let n = 1; n < ends.length; n += 1) ends[n].y = Math.max(ends[n].y, ends[n - 1].y + 15);
  return ends.map((end) =>
    svg(
      "text",
      { class: "end", x: across(end.step) + 10, y: end.y, dy: "0.32em", style: { fill: end.line.colour } },
      shortened(end.line.name, 18),
    ),
  );
}

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function valuesAt(lines, step, write) {
  const entries = lines
    .filter((line) => !line.faint && line.step.length)
    .map((line) => {
      const nearest = d3.bisectCenter(line.step, step);
      return h(
        "tr",
        {},
        h("th", {}, line.name),
        h("td", { class: "number" }, write(line.value[nearest])),
        h("td", {}, line.step[nearest] === step ? "" : `step ${count(line.step[nearest])}`),
      );
    });
  return [h("strong", {}, `Step ${count(step)}`), h("table", {}, entries)];
}

/** Return the moving average of the values, over a fortieth of the curve. */
function smoothed(values) {
  const width = Math.max(1, Math.round(values.length / 40));
  return values.map(
    (_, index) => d3.mean(values.slice(Math.max(0, index - width + 1), index + 1).filter(known)) ?? null,
  );
}

const domainOf = (lists) => {
  const [low, high] = d3.extent(lists.flat().filter(known));
  return low === high ? [(low ?? 0) - 0.5, (high ?? 0) + 0.5] : [low, high];
};

/** Return a table of curves, with about a dozen steps and the last one. */
function curvesTable(caption, curves, write) {
  const steps = d3.sort(new Set(curves.flatMap((curve) => curve.step)));
  const every = Math.max(1, Math.ceil(steps.length / 12));
  const shown = steps.filter((_, index) => index % every === 0 || index === steps.length - 1);
  const at = curves.map((curve) => new Map(d3.zip(curve.step, curve.value)));
  const heads = [
    { text: "step", numeric: true, write: count },
    ...curves.map((curve) => ({ text: curve.name, numeric: true, write })),
  ];
  return table({ caption, heads, rows: shown.map((step) => [step, ...at.map((values) => values.get(step) ?? null)]) });
}

const stepsDomain = () => [0, d3.max(runs, (run) => run.steps) || 1];
const rangeOf = (values) =>
  values.filter(known).length < 2 ? `${brief(values.find(known))}, measured once` : spanOf(values);
const spanOf = (values) => `from ${brief(values.find(known))} to ${brief(values.findLast(known))}`;

/** Return a figure with one panel: a curve per run, all on the same axes. `of(run)` is {step, value} or null. */
function curveFigure(
  title,
  part,
  of,
  { write = number, smooth = false, note = null, say = rangeOf, wide = false } = {},
) {
  const shown = d3.range(runs.length).filter((index) => of(runs[index])?.value.some(known));
  if (!shown.length) {
    const why = absentOf(part, `There are no values of the ${title.toLowerCase()}.`);
    return h("figure", {}, h("figcaption", {}, h("h3", {}, title)), why);
  }
  const curves = shown.map((index) => ({ index, name: runs[index].name, ...of(runs[index]) }));
  const lines = curves.flatMap((curve) => curveLines(curve, smooth));
  const solid = lines.filter((line) => !line.faint);
  const y =
    write === share ? [0, d3.max(lines.flatMap((line) => line.value)) || 1] : domainOf(lines.map((line) => line.value));
  const summary = shown.map((run, place) => ({ run, words: say(solid[place].value) }));
  const fits = d3.max(curves, (curve) => curve.name.length) <= 16; // long names stay in the key
  const draw = (width) =>
    linesDrawing(width, lines, { x: stepsDomain(), y, write, ends: several && width > 420 && fits });
  const drawn = solid.some((line) => line.value.filter(known).length > 1) ? plot(sentenceOf(summary), draw) : null;
  const style = write === number ? decimals(curves.flatMap((curve) => curve.value)) : write;
  const rest = shown.length < runs.length ? absentOf(part) : null;
  return figure({
    title,
    summary,
    body: [drawn, rest],
    note,
    table: curvesTable(title, curves, style),
    wide,
  });
}

function curveLines({ index, name, step, value }, smooth) {
  const line = { name, step, colour: colourOf(index), dash: dashOf(index) };
  const drawn = {
    ...line,
    value: smooth ? smoothed(value) : value,
    mark: smooth && !several ? null : markOf(index, 30),
  };
  return smooth && !several ? [{ ...line, dash: "none", value, faint: true }, drawn] : [drawn];
}

/** Return figures of the score and its parts over steps, for kept and other candidates: one panel per run. */
function scoreFigures() {
  return namesOf("scores").map((name) => {
    const found = ofName("scores", name);
    const axisOf = sharedAxes(name, found, (score) => [score.kept, score.passed]);
    const panels = found.map((score) => {
      const lines = [
        { name: "not kept", step: score.step, value: score.passed, colour: "var(--passed)", dash: "3 3" },
        { name: "kept", step: score.step, value: score.kept, colour: colourOf(score.index) },
      ];
      const words = `kept ${brief(d3.mean(score.kept))} on average, not kept ${brief(d3.mean(score.passed))}`;
      return panel(score.index, words, (width) =>
        linesDrawing(width, lines, { x: stepsDomain(), y: axisOf(score), height: 190 }),
      );
    });
    const curves = found.flatMap((score) => [
      { name: sideName(score.index, "kept"), step: score.step, value: score.kept },
      { name: sideName(score.index, "not kept"), step: score.step, value: score.passed },
    ]);
    const values = curvesTable(name, curves, decimals(curves.flatMap((curve) => curve.value)));
    return figure({
      title: titled(name),
      body: h("div", { class: "panels" }, panels),
      note: axisOf.note,
      table: values,
      wide: found.length > 1,
    });
  });
}

/**
 * Return figures of the labels over the steps: losses, shares of the candidates and of the kept; one panel per run.
 * `labelsOf(run)` are the labels, and `word` says what they are.
 */
function labelFigures(labelsOf = (run) => run.labels ?? [], word = "label") {
  return LABEL_CURVES.map(([part, titleOf, write]) => {
    const title = titleOf.replace("label", word);
    const found = d3
      .range(runs.length)
      .map((index) => ({ index, labels: labelsOf(runs[index]).filter((label) => label[part]) }))
      .filter(({ labels }) => labels.length);
    if (!found.length) return null;
    const values = found.flatMap(({ labels }) => labels.map((label) => label[part].value));
    const y = write === share ? [0, d3.max(values.flat()) || 1] : domainOf(values);
    const panels = found.map(({ index, labels }) => {
      const lines = labels.map(({ name, [part]: curve }, place) => ({
        name,
        step: curve.step,
        value: curve.value,
        colour: colourOf(place),
        dash: dashOf(place),
        mark: markOf(place, 30),
      }));
      const words = lines.map((line) => `${line.name} ${write(d3.mean(line.value.filter(known)))}`).join(", ");
      const key = lines.map((line, place) => h("li", {}, runMark(place), quoted(line.name)));
      const draw = (width) => linesDrawing(width, lines, { x: stepsDomain(), y, height: 220, write, ends: width > 420 });
      return panel(index, `On average ${words}`, draw, h("ul", { class: "keys narrow", "aria-label": "Lines" }, key));
    });
    const curves = found.flatMap(({ index, labels }) =>
      labels.map(({ name, [part]: curve }) => ({ name: sideName(index, name), step: curve.step, value: curve.value })),
    );
    return figure({
      title,
      body: h("div", { class: "panels" }, panels),
      table: curvesTable(title, curves, write === share ? share : decimals(values.flat())),
      wide: found.length > 1,
    });
  }).filter((drawn) => drawn);
}

const LABEL_CURVES = [
  ["loss", "Loss of the candidates by label, before each step", number],
  ["offered", "Share of the candidates by label", share],
  ["kept", "Share of the kept samples by label", share],
];

/** The names of the entries of `part` in all runs, and the entries with a name in the runs that have it. */
const namesOf = (part) => [...new Set(runs.flatMap((run) => run[part].map((entry) => entry.name)))];
const ofName = (part, name) =>
  runs.flatMap((run, index) => run[part].filter((entry) => entry.name === name).map((entry) => ({ index, ...entry })));

/**
 * Return the domain of each run's panel of `name`. All losses share one axis. Scores of different selectors have no
 * common unit, so only runs with the same selector share an axis.
 */
function sharedAxes(name, found, valuesOf) {
  const kindOf = (one) => (name === "loss" ? "" : runs[one.index].selector);
  const domains = d3.rollup(found, (alike) => domainOf(alike.flatMap(valuesOf)), kindOf);
  const note = domains.size > 1 ? "Different selectors score in different units, so each has its own axis." : null;
  return Object.assign((one) => domains.get(kindOf(one)), { note });
}

const sideName = (index, side) => (several ? `${runs[index].name} ${side}` : side);
const titled = (name) => upper(name.replaceAll("_", " "));
const keptKey = () => h("ul", { class: "keys" }, keyEntry("kept", "kept"), keyEntry("passed", "not kept"));

/** Return one of several drawings side by side: the name of its run, a few words, and the drawing. */
function panel(index, words, draw, key = null) {
  const head = several ? h("h4", {}, runName(index)) : null;
  return h("div", { class: "panel" }, head, h("p", { class: "sentence" }, `${upper(words)}.`), key, plot(words, draw));
}
