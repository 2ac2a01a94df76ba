// Make the elements of the page, and format numbers. Every string becomes a text node, so text from a pool is never
// markup. A character that is invisible, or that changes the direction of the text around it, is shown as its code point.

let data; // the content of the page; that of a run that trains is replaced by newer content
let runs;
let samples;

function take(content) {
  data = content;
  runs = content.runs;
  samples = content.samples;
}

take(JSON.parse(document.getElementById("data").textContent));
document.getElementById("data").remove();

const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cs}\p{Bidi_Control}\u200b\u2028\u2029\u2060\ufeff\u{e0000}-\u{e007f}]/u;
const ALL_HIDDEN = new RegExp(HIDDEN, "gu");
const codePoint = (character) => "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** Return the text with code points for hidden characters, for attributes and for text in drawings. */
const plain = (text) => String(text).replaceAll("\r\n", "\n").replace(ALL_HIDDEN, codePoint);

/** Return the nodes of a text. Hidden characters are highlighted, and so are the (lower-case) `words`. */
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
/** Make an element. Attributes may be event listeners (functions), `style` is an object, children may be nested lists. */
const h = (name, attributes = {}, ...children) => build(HTML, name, attributes, children);
const svg = (name, attributes = {}, ...children) => build(SVG, name, attributes, children);

/** Return a text of the pool, with its own direction and its own lines. */
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

/** Return a format for the numbers of a column. All get the decimals with which the largest number has `digits` digits. */
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

/** Return a function that calls `call` once `wait` milliseconds have passed without another call. */
function debounced(call, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), wait);
  };
}
