// The time of each run by part, as a stacked bar per run.

/** Return the figure of the time by part: a bar per run on a common axis. Order and colour identify a part. */
function timeFigure() {
  const shown = d3.range(runs.length).filter((index) => runs[index].time.length);
  if (!shown.length) return absentOf("time", "No times were logged.");
  const parts = [...new Set(shown.flatMap((index) => runs[index].time.map((entry) => entry.part)))];
  const of = (index, part) => runs[index].time.find((entry) => entry.part === part)?.seconds ?? null;
  const totals = shown.map((index) => d3.sum(runs[index].time, (entry) => entry.seconds));
  const largest = (index) => d3.greatest(runs[index].time, (entry) => entry.seconds);
  const summary = shown.map((run, place) => ({
    run,
    words: `${seconds(totals[place])}, ${share(largest(run).seconds / (totals[place] || 1))} of it ${largest(run).part}`,
  }));
  const body = plot(sentenceOf(summary), (width) => timeDrawing(width, shown, parts, of, d3.max(totals) || 1));
  const keys = h(
    "ul",
    { class: "keys" },
    parts.map((part, place) => keyEntry(`part-${place % COLOURS}`, part)),
  );
  const heads = [
    { text: "part", sort: true },
    ...shown.flatMap((index) => [
      { text: several ? runs[index].name : "seconds", numeric: true, write: seconds, sort: true },
      { text: "share", numeric: true, write: share },
    ]),
  ];
  const rows = parts.map((part) => [
    part,
    ...shown.flatMap((index, place) => [
      of(index, part),
      known(of(index, part)) ? of(index, part) / (totals[place] || 1) : null,
    ]),
  ]);
  return figure({
    title: "Time by part",
    summary,
    keys,
    body: [body, shown.length < runs.length ? absentOf("time") : null],
    table: table({ caption: "Time by part", heads, rows }),
  });
}

function timeDrawing(width, shown, parts, of, most) {
  const tall = several ? 58 : 40;
  const across = d3.scaleLinear([0, most], [0, width - 2]);
  const height = shown.length * tall + 24;
  const ticks = across.ticks(Math.max(2, width / 110));
  const drawing = canvas(
    width,
    height,
    rules(across, ticks, {
      top: 0,
      bottom: height - 22,
      at: height - 6,
      write: (tick) => (tick === 0 ? "0" : timeTick(tick, ticks.at(-1))),
      anchor: (tick) => (tick === 0 ? "start" : across(tick) > width - 30 ? "end" : "middle"),
    }),
  );
  shown.forEach((index, place) => {
    const y = place * tall + (several ? 22 : 4);
    if (several)
      drawing.append(svg("text", { class: "label", x: 0, y: y - 7 }, shortened(plain(runs[index].name), 40)));
    let from = 0;
    parts.forEach((part, order) => {
      const spent = of(index, part) ?? 0;
      drawing.append(timePart(part, order, spent, across(from), across(from + spent), y));
      from += spent;
    });
  });
  return drawing;
}

const timeTick = (tick, last) =>
  last < 600
    ? `${d3.format("~r")(tick)} s`
    : last < 14400
      ? `${Math.round(tick / 60)} min`
      : `${d3.format(".1f")(tick / 3600)} h`;

function timePart(part, order, spent, left, right, y) {
  const room = right - left - 1;
  const words = room > part.length * 7.2 + 60 ? `${part} ${seconds(spent)}` : room > part.length * 7.2 + 10 ? part : "";
  const over = (event) => showTip(event, h("strong", {}, part), h("div", {}, seconds(spent)));
  return svg(
    "g",
    { pointermove: over, pointerleave: hideTip },
    svg("rect", { class: `part-${order % COLOURS}`, x: left, y, width: Math.max(0, room), height: 28 }),
    words ? svg("text", { class: "inside", x: left + 6, y: y + 14, dy: "0.32em" }, words) : null,
  );
}
