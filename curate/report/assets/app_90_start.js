// Puts the page together, once; `data-ready` on the root then says after how many milliseconds it could be read.

function sections() {
  return [
    keyFigures(),
    courseSection(),
    scoreSection(),
    groupSection(),
    distributionSection(),
    section(
      "map",
      "Map of the pool",
      null,
      data.map ? mapFigure() : absent(data.missing.map ?? "There is no map of this pool."),
    ),
    section(
      "agreement",
      "Agreement",
      null,
      data.agreement
        ? agreementFigure(data.agreement)
        : absent(data.missing.agreement ?? "Agreement needs two runs over one pool."),
    ),
    section(
      "samples",
      "The samples",
      samplesLead(),
      samples.id.length
        ? new SampleList().element
        : absent(data.missing.samples ?? "The report was made without samples."),
    ),
    comparisonSection(),
    evaluationSection(),
    section("time", "Time", null, timeFigure()),
    configurationSection(),
  ];
}

function samplesLead() {
  if (!samples.id.length) return null;
  const part =
    samples.shown < samples.total ? `${numbered(samples.shown, "sample")} of the pool's ${count(samples.total)}. ` : "";
  return `${part}Each opens in place. Never offered is not never kept: nobody turned those down.`;
}

function start() {
  const parts = sections();
  const contents = h(
    "nav",
    { class: "contents", "aria-label": "Contents" },
    h(
      "ol",
      {},
      parts.map(({ id, title }) => h("li", {}, h("a", { href: `#${id}` }, title))),
    ),
  );
  const main = h(
    "main",
    { id: "report", tabindex: -1 },
    parts.map(({ node }) => node),
  );
  document.getElementById("page").replaceChildren(pageHead(), contents, main);
  document.body.append(tip);
  drawPlots();
  addEventListener(
    "resize",
    settled(() => drawPlots(), 80),
  );
  addEventListener("scroll", hideTip, { passive: true });
  lightOnPaper();
  requestAnimationFrame(() =>
    requestAnimationFrame(() => (document.documentElement.dataset.ready = Math.round(performance.now()))),
  );
}

start();
