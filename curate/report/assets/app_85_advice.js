// Advice: the verdict as a sentence, the race as a drawing with a row per method and a column per round, and as tables.

/** Return the section of the advice that rests on runs over this pool, or nothing if there is none. */
function adviceSections() {
  const found = data.advice ?? [];
  if (!found.length) return [];
  const lead =
    "Short runs race, and the winner is judged on seeds and held-out rows that no round of the race had. Differences are to random at the same seed.";
  return [section("advice", "Advice", lead, found.map(adviceFigure))];
}

const RACE = { row: 30, top: 44, bottom: 40, gap: 22, inset: 8 };

function adviceFigure(advice) {
  const { name, sentence, methods, rounds, cells, verdicts, notes } = advice;
  const against = verdicts.find((verdict) => verdict.control === "random") ?? null;
  const body = methods.length ? plot(sentence, (width) => raceDrawing(width, advice, against)) : null;
  return figure({
    title: h("span", {}, quoted(name), advice.advised ? `: use ${advice.advised}` : ""),
    summary: sentence,
    keys: h(
      "ul",
      { class: "keys", "aria-label": "Marks" },
      keyEntry("dot-full", "mean over seeds"),
      keyEntry("dot-hollow", "dropped after this round"),
      keyEntry("seed-dot", "one seed"),
    ),
    body: [
      body,
      table({ caption: `Verdicts of ${name}`, ...verdictTable(verdicts) }),
      notes.length
        ? table({
            caption: `What ${name} saw in the data`,
            heads: [{ text: "seen" }, { text: "count", numeric: true, write: count }, { text: "detail" }],
            rows: notes.map((note) => [note.kind, note.count, quoted(note.detail)]),
          })
        : null,
      advice.command ? h("p", { class: "absent" }, "The full run: ", h("code", {}, spaced(advice.command))) : null,
    ],
    table: table({
      caption: `Race of ${name}`,
      heads: [
        { text: "method" },
        ...rounds.map((text) => ({ text, numeric: true, write: signed4, sort: true })),
      ],
      rows: methods.map((method) => [
        method,
        ...rounds.map(
          (_, place) => cells.find((cell) => cell.method === method && cell.round === place + 1)?.mean ?? null,
        ),
      ]),
    }),
  });
}

const VERDICT = {
  method: { text: "winner" },
  control: { text: "against" },
  verdict: { text: "verdict" },
  difference: { text: "difference", numeric: true, write: signed4 },
  low: { text: "from", numeric: true, write: signed4 },
  high: { text: "to", numeric: true, write: signed4 },
  level: { text: "level", numeric: true, write: share },
  seeds: { text: "seeds", numeric: true, write: count },
  rows: { text: "rows", numeric: true, write: count },
  tokens_saved: { text: "tokens saved", numeric: true, write: count },
  seconds_saved: { text: "seconds saved", numeric: true, write: count },
};

/** Return heads and rows of the verdicts, without columns that have no value. */
function verdictTable(verdicts) {
  const shown = Object.keys(VERDICT).filter((key) => verdicts.some((verdict) => known(verdict[key])));
  return {
    heads: shown.map((key) => VERDICT[key]),
    rows: verdicts.map((verdict) => shown.map((key) => verdict[key] ?? null)),
  };
}

/**
 * Return a drawing of a race. Each cell has a small dot per seed and a large one for their mean; the line through it is
 * random. The last column has the interval of the verdict.
 */
function raceDrawing(width, { methods, rounds, cells }, verdict) {
  const left = Math.min(170, width * 0.28);
  const bottom = RACE.top + methods.length * RACE.row;
  const step = (width - left) / rounds.length;
  const interval = verdict && known(verdict.low) && known(verdict.high) ? [verdict.low, verdict.high] : [];
  const extent = d3.extent([0, ...interval, ...cells.flatMap((cell) => [...cell.by_seed, cell.mean])]);
  const scales = rounds.map((_, place) =>
    d3.scaleLinear(extent, [left + place * step + RACE.inset, left + (place + 1) * step - RACE.gap - RACE.inset]).nice(3),
  );
  const drawing = canvas(width, bottom + RACE.bottom);
  rounds.forEach((title, place) => {
    const across = scales[place];
    const ticks = step < 130 ? [0] : across.ticks(3);
    drawing.append(
      svg(
        "text",
        { class: "unit", x: across.range()[0] - RACE.inset, y: 16 },
        step < 130 ? title.split(" · ")[0] : title,
      ),
      rules(across, ticks, {
        top: RACE.top - 12,
        bottom,
        at: bottom + 16,
        write: (tick) => (tick === 0 ? (step < 130 ? "0" : "random") : d3.format("+")(tick)),
        mark: 0,
      }),
    );
  });
  drawing.append(svg("text", { class: "unit", x: 0, y: bottom + 34 }, "← lower loss than random at the same seed"));
  methods.forEach((method, row) => {
    const y = RACE.top + (row + 0.5) * RACE.row;
    drawing.append(
      svg("text", { class: "label", x: 0, y, dy: "0.32em" }, shortened(plain(method), Math.floor(left / 7.2))),
    );
    for (const cell of cells.filter((each) => each.method === method)) {
      const across = scales[cell.round - 1];
      const judged = verdict && interval.length && cell.round === rounds.length && method === verdict.method;
      if (judged)
        drawing.append(
          svg("line", { class: "interval", x1: across(interval[0]), x2: across(interval[1]), y1: y, y2: y }),
        );
      drawing.append(
        ...cell.by_seed.map((value) => svg("circle", { class: "seed", cx: across(value), cy: y, r: 2.5 })),
        svg("circle", { class: cell.stays ? "dot accent" : "dot hollow", cx: across(cell.mean), cy: y, r: 5 }),
      );
    }
  });
  return drawing;
}
