// Attributions: for each query the trained samples with the highest and the lowest influence, with their texts.

/** Return the section of the attributions of these runs, or nothing if there is none. */
function attributionSections() {
  const found = data.attributions ?? [];
  if (!found.length) return [];
  const lead =
    "Influence of the samples that a run was trained on, to first order: above 0 where training on the sample lowered the loss of the answer. Both ends of each order are shown.";
  return [section("attributions", "Attributions", lead, found.map(attributionFigure))];
}

function attributionFigure({ name, run, metric, count: asked, samples: ranked, queries }) {
  const first = queries[0]?.rows[0];
  const summary = first
    ? `Of ${numbered(ranked, "sample")}, ${first.sample_id.slice(0, 8)} has the highest influence on ${asked > 1 ? "the mean of the queries" : "the query"}: ${share(first.share)} of all.`
    : "No sample is listed.";
  const tables = queries.map((query) => [query, attributionTable(name, query)]);
  return figure({
    title: h("span", {}, quoted(name), " of ", quoted(run)),
    summary,
    body: tables.map(([query, node], place) =>
      place
        ? disclosure(h("span", {}, "Query ", quoted(shortened(plain(query.text ?? query.id), 80))), node)
        : h("div", {}, query.text ? h("p", { class: "quoted", dir: "auto" }, query.text) : h("p", { class: "note" }, query.id ?? `Mean over ${numbered(asked, "query", "queries")}`), node),
    ),
    note: `Metric ${metric}. All listed samples are in the table attributions.`,
  });
}

function attributionTable(name, { id, rows }) {
  return table({
    caption: `Influence of samples on ${id ?? "the mean of the queries"} (${name})`,
    heads: [
      { text: "rank", numeric: true, write: count, sort: true },
      { text: "influence", numeric: true, write: number, sort: true },
      { text: "share", numeric: true, write: share, sort: true },
      { text: "steps", numeric: true, write: count, sort: true },
      { text: "text" },
    ],
    rows: rows.map((row) => [row.rank, row.influence, row.share, row.steps, quoted(row.text ?? row.sample_id)]),
  });
}
