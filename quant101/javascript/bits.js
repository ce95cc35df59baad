// Chapter 1: the bits of a number in a format, its neighbours, and an update that survives or is swallowed.
import { clamp, digits, drawing, between, explorer, inJson, label, node, number, rint, rule } from "./common.js";

const FORMATS = {  // exponent bits, mantissa bits, special values
  FP32: [8, 23, "ieee"], TF32: [8, 10, "ieee"], FP16: [5, 10, "ieee"], BF16: [8, 7, "ieee"], E4M3: [4, 3, "fn"], E5M2: [5, 2, "ieee"],
};

function format(name) {
  const [exponent, mantissa, specials] = FORMATS[name], bias = 2 ** (exponent - 1) - 1;
  const half = 2 ** (exponent + mantissa);  // the code of -0
  const most = specials === "fn" ? half - 2 : half - 2 ** mantissa - 1;  // the code of the largest number
  return { name, exponent, mantissa, bias, specials, half, most };
}

function decode(code, { mantissa, bias, half, most, specials }) {
  const sign = code >= half ? -1 : 1, rest = code % half;
  if (rest > most) return specials === "fn" || rest % 2 ** mantissa ? NaN : sign * Infinity;
  const stored = Math.floor(rest / 2 ** mantissa), m = rest % 2 ** mantissa;
  return sign * (stored ? (2 ** mantissa + m) * 2 ** (stored - bias - mantissa) : m * 2 ** (1 - bias - mantissa));
}

const exponentOf = (v) => ((new DataView(new Float64Array([v]).buffer).getUint16(6, true) >> 4) & 2047) - 1023;

function encode(x, { exponent, mantissa, bias, half, most, specials }) {
  const sign = x < 0 || Object.is(x, -0) ? half : 0, size = Math.abs(x);
  const lost = specials === "fn" ? half - 1 : half - 2 ** mantissa;  // NaN, or infinity
  if (Number.isNaN(x)) return half - 1 - (specials === "fn" ? 0 : 2 ** (mantissa - 1) - 1);
  if (size === Infinity) return sign + lost;
  const power = Math.max(exponentOf(size), 1 - bias), steps = rint(size / 2 ** (power - mantissa));
  const code = steps + (power - 1 + bias) * 2 ** mantissa;
  return sign + (code > most ? lost : code);
}

// The next number up or down in value; beyond the largest there is none.
function neighbour(code, up, f) {
  const x = decode(code, f), rest = code % f.half;
  if (Number.isNaN(x)) return NaN;
  if (rest === 0) return decode(up ? 1 : f.half + 1, f);
  const away = up === code < f.half;
  return rest + (away ? 1 : -1) > f.most + (f.specials === "ieee" ? 1 : 0) ? NaN : decode(code + (away ? 1 : -1), f);
}

function compute(_, state) {
  const name = state.format, value = number(state.value), update = number(state.update);
  const f = format(name), code = encode(value, f), x = decode(code, f);
  const below = neighbour(code, false, f), above = neighbour(code, true, f);
  const after = decode(encode(x + update, f), f), lost = after === x && update !== 0;
  const rest = code % f.half, stored = Math.floor(rest / 2 ** f.mantissa), m = rest % 2 ** f.mantissa;
  const next = (v) => (Number.isNaN(v) ? "none" : digits(v, 9));
  const half = (a, b) => (Number.isFinite(b - a) ? digits((b - a) / 2, 6) : "none");
  const says = !Number.isFinite(x) ? `The code ${code} means ${digits(x, 1)} in ${name}. Click a bit, or enter another number.`
    : update === 0 ? `${digits(value, 9)} is stored in ${name} as ${digits(x, 9)}.`
    : lost ? `Swallowed: ${digits(x, 9)} + (${digits(update, 9)}) lies nearer to ${digits(x, 9)} than to any other number of ${name}, so nothing changes.`
    : `Survives: after the update ${name} holds ${digits(after, 9)}, a change of ${digits(after - x, 6)} where ${digits(update, 6)} was asked for.`;
  const numbers = [["code", "Code", String(code)], ["exponent", "Stored exponent", String(stored)], ["mantissa", "Mantissa", String(m)],
    ["stored", "Number that is stored", digits(x, 9)], ["below", "Next below", next(below)], ["above", "Next above", next(above)],
    ["half_below", "Half step below", half(below, x)], ["half_above", "Half step above", half(x, above)], ["after", "After the update", digits(after, 9)]];
  return { f, code, x, below, above, after, update, numbers, says };
}

function draw({ f, code, x, below, above, after, update }, state, width, change) {
  const all = 1 + f.exponent + f.mantissa;
  const bits = Array.from({ length: all }, (_, i) => Math.floor(code / 2 ** (all - 1 - i)) % 2);
  const part = (i) => (i === 0 ? "sign" : i <= f.exponent ? "exponent" : "mantissa");
  const color = { sign: "error", exponent: "quantized", mantissa: "original" };
  const buttons = bits.map((bit, i) => node("button", {
    type: "button", "data-key": `bit${i}`, "aria-label": `${part(i)} bit of weight 2 to the ${all - 1 - i}: ${bit}`, "aria-pressed": bit ? "true" : "false",
    style: `width:1.7rem;padding:0;border-width:2px;border-color:var(--${color[part(i)]});font-weight:${bit ? 700 : 400}`,
    onclick: () => change({ value: inJson(decode(code + (bit ? -1 : 1) * 2 ** (all - 1 - i), f)) }),
  }, String(bit)));
  const rows = [0, 1, 1 + f.exponent, all].slice(0, -1).map((from, k, starts) => node("div", {
    style: "display:inline-flex;flex-wrap:wrap;gap:2px;align-items:center;margin:0 0.8rem 0.4rem 0" },
  node("span", { style: `font-size:0.8rem;color:var(--${color[part(from)]});width:100%` }, part(from)), buttons.slice(from, starts[k + 1] ?? all)));
  const picture = [];
  if (Number.isFinite(x)) {
    const step = Math.max(...[x - below, above - x].filter(Number.isFinite));
    const place = between(x - 2.2 * step, x + 2.2 * step, 10, width - 10), y = 46;
    picture.push(rule(10, y, width - 10, y, "guide"));
    for (let c = x, up = 0; up < 2; up++) {
      for (let k = 0, at = code; k < 3 && Number.isFinite(c); k++) {
        picture.push(rule(place(c), y - 8, place(c), y + 8, "ink"));
        c = neighbour(at, up === 1, f);
        at = Number.isFinite(c) ? encode(c, f) : at;
      }
      c = x;
    }
    picture.push(node("circle", { cx: place(x), cy: y, r: 6, fill: "var(--original)" }), label(place(x), y - 16, digits(x, 6), { "text-anchor": "middle" }));
    if (update && Number.isFinite(update)) {
      const to = clamp(place(x + update), 4, width - 4);
      picture.push(rule(place(x), y + 14, to, y + 14, "error", { "stroke-width": 2 }),
        node("circle", { cx: to, cy: y + 14, r: 3.5, fill: "var(--error)" }),
        label(clamp(to, 60, width - 60), y + 32, "x + update", { "text-anchor": "middle" }));
      if (Number.isFinite(after) && Math.abs(after - x) <= 2.2 * step) picture.push(node("circle", { cx: place(after), cy: y, r: 9, fill: "none", stroke: "var(--quantized)", "stroke-width": 2.5 }));
    }
  }
  return node("div", {}, rows, drawing(width, 86, `The numbers of ${f.name} around ${digits(x, 6)}; a ring marks where the update ends.`, picture));
}

export default explorer({
  question: "What lies next to this number, and does a small update survive?",
  controls: [
    { name: "format", kind: "choice", text: "Format", options: Object.keys(FORMATS) },
    { name: "value", kind: "number", text: "Number" },
    { name: "update", kind: "number", text: "Update" },
  ],
  compute, draw,
});
