// Build the page. Afterwards, `data-ready` on the root element holds the milliseconds until the page was ready.

function sections() {
  return [
    keyFigures(),
    curveSection(),
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
        : absent(data.missing.agreement ?? "Agreement needs at least two runs over the same pool."),
    ),
    section(
      "samples",
      "Samples",
      samplesLead(),
      samples.id.length
        ? new SampleList().element
        : absent(data.missing.samples ?? "This report has no samples."),
    ),
    ...copySections(),
    ...adviceSections(),
    comparisonSection(),
    evaluationSection(),
    ...attributionSections(),
    section("time", "Time", null, timeFigure()),
    configurationSection(),
  ];
}

function samplesLead() {
  if (!samples.id.length) return null;
  const part =
    samples.shown < samples.total ? `${numbered(samples.shown, "sample")} of the pool's ${count(samples.total)}. ` : "";
  return `${part}Click a sample to open it. "Never kept" means offered but not kept; samples that were never offered are listed separately.`;
}

function start() {
  if (data.live) showLive();
  else showReport();
  document.body.append(tip);
  drawPlots();
  addEventListener(
    "resize",
    debounced(() => drawPlots(), 80),
  );
  addEventListener("scroll", hideTip, { passive: true });
  lightOnPaper();
  requestAnimationFrame(() =>
    requestAnimationFrame(() => (document.documentElement.dataset.ready = Math.round(performance.now()))),
  );
}

function showReport() {
  const parts = sections();
  document.getElementById("page").replaceChildren(pageHead(), contentsOf(parts), mainOf(parts));
}

/** Return the table of contents of sections. */
const contentsOf = (parts) =>
  h(
    "nav",
    { class: "contents", "aria-label": "Contents" },
    h(
      "ol",
      {},
      parts.map(({ id, title }) => h("li", {}, h("a", { href: `#${id}` }, title))),
    ),
  );

const mainOf = (parts) =>
  h(
    "main",
    { id: "report", tabindex: -1 },
    parts.map(({ node }) => node),
  );

start();
