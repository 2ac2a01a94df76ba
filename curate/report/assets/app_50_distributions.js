// Distributions of the scores of kept candidates and of the other candidates.

/** Return distributions of each score for kept and other candidates. Each is normalized, so that the shapes compare. */
function distributionFigures() {
  return namesOf("distributions").map((name) => {
    const found = ofName("distributions", name);
    const axisOf = sharedAxes(name, found, (one) => [one.edges]);
    const heightOf = sharedAxes(name, found, (one) => [shares(one.kept), shares(one.passed)]);
    const say = (one) =>
      `half of the kept are above ${brief(medianOf(one.edges, one.kept))}, half of those not kept above ${brief(medianOf(one.edges, one.passed))}`;
    const panels = found.map((one) =>
      panel(one.index, say(one), (width) => histogramDrawing(width, one, axisOf(one), heightOf(one)[1])),
    );
    const clipped = d3.sum(found, (one) => (one.below ?? 0) + (one.above ?? 0));
    const beyond = clipped ? `The outer bins also count ${numbered(clipped, "value")} beyond the axis.` : null;
    const note = [axisOf.note, beyond].filter(Boolean).join(" ") || null;
    const body = h("div", { class: "panels" }, panels);
    return figure({ title: titled(name), body, note, table: distributionTable(name, found), wide: found.length > 1 });
  });
}

const shares = (counts) => counts.map((one) => one / (d3.sum(counts) || 1));

function medianOf(edges, counts) {
  const sums = d3.cumsum(counts);
  if (!sums.at(-1)) return null;
  const bin = d3.bisectLeft(sums, sums.at(-1) / 2);
  const inside = (sums.at(-1) / 2 - (bin ? sums[bin - 1] : 0)) / (counts[bin] || 1);
  return edges[bin] + inside * (edges[bin + 1] - edges[bin]);
}

function histogramDrawing(width, one, x, top, height = 170) {
  const across = d3.scaleLinear(x, [10, width - 10]);
  const up = d3.scaleLinear([0, top || 1], [height - 28, 10]);
  const steps = (counts) => one.edges.map((edge, index) => [edge, shares(counts)[Math.min(index, counts.length - 1)]]);
  const area = d3
    .area(
      ([edge]) => across(edge),
      up(0),
      ([, value]) => up(value),
    )
    .curve(d3.curveStepAfter);
  const line = d3
    .line(
      ([edge]) => across(edge),
      ([, value]) => up(value),
    )
    .curve(d3.curveStepAfter);
  const ticks = across.ticks(Math.max(2, Math.min(7, width / 80)));
  const drawing = canvas(
    width,
    height,
    svg(
      "g",
      { class: "axis" },
      svg("line", { x1: 10, x2: width - 10, y1: up(0), y2: up(0) }),
      ticks.map((tick) =>
        svg("text", { x: across(tick), y: height - 8, "text-anchor": "middle" }, across.tickFormat(5)(tick)),
      ),
    ),
  );
  drawing.append(
    svg("path", { class: "area", d: area(steps(one.kept)), style: { fill: colourOf(one.index) } }),
    svg("path", {
      class: "line",
      d: line(steps(one.passed)),
      "stroke-dasharray": "3 3",
      style: { stroke: "var(--passed)" },
    }),
    svg("path", { class: "line", d: line(steps(one.kept)), style: { stroke: colourOf(one.index) } }),
  );
  drawing.addEventListener("pointermove", (event) => {
    const bin = Math.max(
      0,
      Math.min(one.kept.length - 1, d3.bisectRight(one.edges, across.invert(d3.pointer(event, drawing)[0])) - 1),
    );
    showTip(
      event,
      h("strong", {}, `${number(one.edges[bin])} to ${number(one.edges[bin + 1])}`),
      h("div", {}, `${share(shares(one.kept)[bin])} of the kept (${count(one.kept[bin])})`),
      h("div", {}, `${share(shares(one.passed)[bin])} of those not kept (${count(one.passed[bin])})`),
    );
  });
  drawing.addEventListener("pointerleave", hideTip);
  return drawing;
}

function distributionTable(name, found) {
  const edges = decimals(found.flatMap((one) => one.edges));
  const heads = [
    ...(several ? [{ text: "run" }] : []),
    { text: "from", numeric: true, write: edges },
    { text: "to", numeric: true, write: edges },
    { text: "kept", numeric: true, write: count },
    { text: "not kept", numeric: true, write: count },
  ];
  const rows = found.flatMap((one) =>
    one.kept.map((kept, bin) => [
      ...(several ? [runs[one.index].name] : []),
      one.edges[bin],
      one.edges[bin + 1],
      kept,
      one.passed[bin],
    ]),
  );
  return table({ caption: `Distribution of ${name}`, heads, rows, rowHeads: several });
}
