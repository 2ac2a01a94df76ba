// Held-out rows in the pool, and copies: counts by kind, and pairs of texts side by side with what they share marked.

/** Return the sections of what `curate decontaminate` and `curate dedup` found in this pool, those that there are. */
function copySections() {
  const found = [];
  if (data.leaks?.length)
    found.push(
      section(
        "leaks",
        "Held-out rows in the pool",
        "Rows that hold held-out rows. The passage that both have is marked. The score is the share of the held-out text that is in the row, weighted by rarity.",
        data.leaks.map((page) => copyFigure(page, LEAK)),
      ),
    );
  if (data.copies?.length)
    found.push(
      section(
        "copies",
        "Copies",
        "Pairs of rows with the same or a similar text, and answers to the same question that contradict each other. The score is the Jaccard similarity of the texts; the least similar pairs come first.",
        data.copies.map((page) => copyFigure(page, COPY)),
      ),
    );
  return found;
}

const LEAK = { own: "Row of the pool", other: "Held-out row", others: "held-out rows" };
const COPY = { own: "Row", other: "Its copy, or the answer that it contradicts", others: "others" };

function copyFigure({ name, kept, counts, pairs, left_out: leftOut }, words) {
  const total = d3.sum(counts, (row) => row.pairs);
  const kinds = listed(counts.map((row) => `${count(row.pairs)} ${row.kind}`));
  const summary = total ? `${numbered(total, "pair")}: ${kinds}.` : "No pair was found.";
  const left = leftOut > 0 ? ` ${numbered(leftOut, "pair")} more are not on this page: they are in SQL.` : "";
  return figure({
    title: h("span", {}, quoted(name), known(kept) ? ` keeps ${numbered(kept, "sample")}` : ""),
    summary,
    body: [
      counts.length
        ? table({
            caption: `Counts of ${name}`,
            heads: [
              { text: "kind" },
              ...["pairs", "samples", words.others].map((text) => ({ text, numeric: true, write: count, sort: true })),
            ],
            rows: counts.map((row) => [row.kind, row.pairs, row.samples, row.others]),
          })
        : null,
      d3.groups(pairs, (pair) => pair.kind).map(([kind, own]) =>
        disclosure(`${numbered(own.length, "pair")}: ${kind}`, h("ol", { class: "pairs" }, own.map((pair) => pairItem(pair, words)))),
      ),
    ],
    note: left ? left.trim() : null,
  });
}

function pairItem(pair, words) {
  const facts = [known(pair.score) ? `score ${number(pair.score)}` : null, known(pair.evidence) ? `evidence ${number(pair.evidence)}` : null];
  const side = (title, id, text) =>
    h(
      "div",
      {},
      h("h4", {}, title, " ", h("code", {}, id ?? NONE)),
      text ? h("p", { class: "quoted", dir: "auto" }, text[0], text[1] ? h("mark", {}, text[1]) : null, text[2] ?? null) : h("p", { class: "note" }, "Its text is not in the store."),
    );
  return h(
    "li",
    {},
    h("p", { class: "note" }, facts.filter(known).join(" · "), pair.passage ? [known(pair.score) ? " · " : "", "passage: ", quoted(pair.passage)] : null),
    h(
      "div",
      { class: "sides" },
      side(known(pair.position) ? `${words.own} ${count(pair.position)}` : words.own, pair.sample_id, pair.text),
      side(pair.against ? `${words.other} of ${plain(pair.against)}` : words.other, pair.other_id, pair.other_text),
    ),
  );
}
