// The elements of the page, and how numbers are written. Every string becomes a text node, so that nothing out of a
// pool is ever read as markup; a character that cannot be seen, or that turns the text round it about, is shown by its
// code point.

const data = JSON.parse(document.getElementById("data").textContent);
document.getElementById("data").remove();
const runs = data.runs;
const samples = data.samples;

const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cs}\p{Bidi_Control}\u200b\u2028\u2029\u2060\ufeff\u{e0000}-\u{e007f}]/u;
const ALL_HIDDEN = new RegExp(HIDDEN, "gu");
const codePoint = (character) => "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** Text with its hidden characters spelled out: for attributes and inside of drawings. */
const plain = (text) => String(text).replaceAll("\r\n", "\n").replace(ALL_HIDDEN, codePoint);

/** Nodes of a text: hidden characters stand out, and so do `words` (lower case), where any are given. */
function readable(text, words = []) {
  const looked = words.map((word) => word.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&"));
  const wanted = new RegExp([HIDDEN.source, ...looked].join("|"), "giu");
  const found = String(text).replaceAll("\r\n", "\n");
  const nodes = [];
  let end = 0;
  for (const match of found.matchAll(wanted)) {
    const special = HIDDEN.test(match[0]);
    const node = document.createElement(special ? "span" : "mark");
    if (special) node.className = "hidden-character";
    node.textContent = special ? codePoint(match[0]) : match[0];
    nodes.push(document.createTextNode(found.slice(end, match.index)), node);
    end = match.index + match[0].length;
  }
  nodes.push(document.createTextNode(found.slice(end)));
  return nodes;
}

function build(space, name, attributes, children) {
  const node = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else if (key === "style")
      for (const [property, set] of Object.entries(value)) node.style.setProperty(property, set);
    else node.setAttribute(key, value === true ? "" : plain(value));
  }
  const text = space === HTML ? readable : (child) => [document.createTextNode(plain(child))];
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(...(child instanceof Node ? [child] : text(child)));
  }
  return node;
}

const HTML = "http://www.w3.org/1999/xhtml";
const SVG = "http://www.w3.org/2000/svg";
/** An element: attributes that are functions listen, `style` is an object, children are nodes, text or lists of them. */
const h = (name, attributes = {}, ...children) => build(HTML, name, attributes, children);
const svg = (name, attributes = {}, ...children) => build(SVG, name, attributes, children);

/** A text out of the pool: its own direction, its own lines. */
const quoted = (text, words = []) => h("span", { class: "quoted", dir: "auto" }, readable(text, words));

const NONE = "–";
const known = (value) => value !== null && value !== undefined;
const written = (style) => (value) => (known(value) ? style(value) : NONE);
const count = written(d3.format(",.0f"));
const share = written((value) => (value !== 0 && Math.abs(value) < 0.01 ? d3.format(".2%") : d3.format(".1%"))(value));
const times = written((value) => `${d3.format(value < 0.095 ? ".2f" : ".1f")(value)}×`);
const number = written((value) => decimals([value])(value));
const brief = written((value) => decimals([value], 3)(value)); // for sentences
const numbered = (many, one, more = `${one}s`) => `${count(many)} ${many === 1 ? one : more}`;

/** A way to write the numbers of a column: as many decimals for all as the largest needs for `digits` digits. */
function decimals(values, digits = 4) {
  const filled = values.filter(known);
  if (filled.every(Number.isInteger)) return count;
  const largest = d3.max(filled, Math.abs);
  if (largest > 0 && (largest < 1e-3 || largest >= 1e7)) return written(d3.format(".3~e"));
  return written(d3.format(`,.${Math.min(6, Math.max(0, digits - 1 - Math.floor(Math.log10(largest || 1))))}f`));
}

const seconds = written((value) => {
  if (value < 100) return `${d3.format(value < 10 ? ".2f" : ".1f")(value)} s`;
  const minutes = Math.round(value / 60);
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
});

/** "a", "a and b", "a, b and c". */
const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

/** `call`, but only once nobody has called for `wait` milliseconds. */
function settled(call, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), wait);
  };
}
