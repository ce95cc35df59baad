// Chapter 6: two libraries, one float32 at a time, with every value on the way, and the place where they part.
import { clamp, digits, explorer, f32, inJson, node, number, rint } from "./common.js";

const whole = new Int32Array(1), single = new Float32Array(whole.buffer), wide = new Float64Array(1), bits = new BigInt64Array(wide.buffer);

// The float32 before or after another one.
function neighbour(x, up) {
  single[0] = x;
  if (x === 0) return up ? 2 ** -149 : -(2 ** -149);
  whole[0] += up === x > 0 ? 1 : -1;
  return single[0];
}

// x * y + z in one rounding to float32; the product is exact in 53 bits, and an odd last bit decides for what the sum lost.
function multiplyAdd(x, y, z) {
  const product = x * y, total = product + z, rest = total - product, lost = product - (total - rest) + (z - rest);
  wide[0] = total;
  if (lost !== 0 && Number.isFinite(total) && (bits[0] & 1n) === 0n) bits[0] += lost > 0 === total > 0 ? 1n : -1n;
  return f32(wide[0]);
}

const halfAway = (v) => Math.trunc(v) + (Math.abs(v - Math.trunc(v)) >= 0.5 ? Math.sign(v) : 0);
const ROUND = { "half-even": rint, "half-away": halfAway };

// The way of a number through the rules of a library: its factor, the place on the ruler, the code.
function way(x, { scale, zero_point: zero }, rules) {
  const peak = rules.ratio.startsWith("peak"), step = peak ? f32(scale * 127) : f32(scale), top = rules.ratio === "reciprocal" ? 1 : 127;
  const factor = rules.ratio === "divide" ? step : rules.ratio === "peak-reciprocal" ? f32(f32(1 / step) * top) : f32(top / step);
  const moved = rules.ratio === "divide" ? f32(x / factor) : f32(x * factor), after = rules.zero_point === "after";
  const place = after ? moved : rules.zero_point === "fused" && rules.ratio !== "divide" ? multiplyAdd(x, factor, f32(zero)) : f32(moved + f32(zero));
  const rounded = ROUND[rules.rounding](place), fits = rules.overflow !== "int32" || Math.abs(rounded) < 2 ** 31;
  const q = (fits ? rounded : zero >= 0 ? -(2 ** 31) : 2 ** 31) + (after ? zero : 0);
  return { factor, moved, place, rounded, code: rules.overflow === "wrap" ? lowBits(q) : clamp(q, rules.overflow === "narrow" ? -127 : -128, 127) };
}

// What is left of a whole number in 8 bits; a conversion from more than 32 bits gives 0.
const lowBits = (q) => (Math.abs(q) < 2 ** 31 ? ((q + 128) & 255) - 128 : 0);

const at = (name, { zero_point }, conventions) => ({ rules: conventions[name], zero: conventions[name].only_zero === 0 ? 0 : zero_point });
const codeIn = (x, name, state, conventions) => {
  const { rules, zero } = at(name, state, conventions);
  return way(x, { ...state, zero_point: zero }, rules);
};

// The next number from x upward to which the two give different codes, looked for around every tie.
function parting(x, state, conventions) {
  const differ = (v) => codeIn(v, state.a, state, conventions).code !== codeIn(v, state.b, state, conventions).code;
  for (let k = Math.floor(x / f32(state.scale)) - 1; k < 130; k++) {
    let v = f32((k + 0.5) * f32(state.scale));
    for (let i = 0; i < 4; i++) v = neighbour(v, false);
    for (let i = 0; i < 9; i++, v = neighbour(v, true)) if (v > x && differ(v)) return v;
  }
  return NaN;
}

function compute({ conventions }, given) {
  const state = { ...given, scale: number(given.scale) }, x = f32(number(given.x));
  const a = codeIn(x, state.a, state, conventions), b = codeIn(x, state.b, state, conventions), next = parting(x, state, conventions);
  const [p, q] = [state.a, state.b].map((name) => conventions[name]), late = (rules) => rules.zero_point === "after";
  const parts = a.code === b.code ? null : a.moved !== b.moved ? "moved" : late(p) !== late(q) ? "place" : p.rounding !== q.rounding ? "rounded" : a.place !== b.place ? "place" : "code";
  const reasons = { moved: "They part at the number of steps: to divide by the scale and to multiply by a factor that was rounded before are not the same.",
    place: "They part at the zero point: added before rounding, it makes another whole number even, or takes the last bits away.",
    rounded: "They part at the tie: it goes to the even number in the one and away from zero in the other.", code: "They part at the ends of the range." };
  const says = parts ? reasons[parts] : a.moved === b.moved ? "The same number of steps, and the same code." : "The same code, though the numbers of steps differ in their last bit.";
  const numbers = [["x", "Number, float32", digits(x, 9)], ["code_a", `Code of ${state.a}`, String(a.code).replace("-", "−")], ["code_b", `Code of ${state.b}`, String(b.code).replace("-", "−")],
    ["below", "float32 before it", digits(neighbour(x, false), 9)], ["above", "float32 after it", digits(neighbour(x, true), 9)],
    ["parting", "They part next at", Number.isNaN(next) ? "none above" : digits(next, 9)]];
  return { numbers, says, a, b, x, next, parts };
}

function draw({ a, b, x, next, parts }, state, width, change, { conventions }) {
  const names = { factor: "divides by, or multiplies with", moved: "steps from zero", place: "what is rounded", rounded: "rounded", code: "code" };
  const order = Object.keys(names), rows = order.map((key) => node("tr", { style: key === parts ? "background:var(--faint)" : "" },
    node("th", { scope: "row", style: "font-weight:normal;text-align:left;padding:0.2rem 0.6rem 0.2rem 0" }, names[key]),
    [a, b].map((one) => node("td", { style: `padding:0.2rem 0.4rem;text-align:right;font-variant-numeric:tabular-nums;${one.code !== a.code || (key === "code" && a.code !== b.code) ? "font-weight:600" : ""}` }, digits(one[key], 9)))));
  const button = (key, text, value) => node("button", { type: "button", "data-key": key, disabled: Number.isNaN(value), onclick: () => change({ x: inJson(value) }) }, text);
  return node("div", {},
    node("p", { style: "display:flex;flex-wrap:wrap;gap:0.5rem;margin:0 0 0.6rem" }, button("down", "One float32 down", neighbour(x, false)), button("up", "One float32 up", neighbour(x, true)), button("next", "Where they part next", next)),
    node("table", { style: "border-collapse:collapse;margin:0;width:auto;font-size:0.9rem" }, node("thead", {}, node("tr", {}, node("td", {}), [state.a, state.b].map((name) => node("th", { scope: "col", style: "text-align:right;padding:0.2rem 0.4rem" }, name.replaceAll("_", "_\u200b"))))), node("tbody", {}, rows)),
    [state.a, state.b].some((name) => conventions[name].only_zero === 0) && state.zero_point ? node("p", { style: "margin:0.4rem 0 0;font-size:0.9rem" }, "A library without zero points takes 0.") : null);
}

const LIBRARIES = ({ conventions }) => Object.keys(conventions);

export default explorer({
  question: "One number, two libraries: where do they part?",
  controls: [
    { name: "a", kind: "choice", text: "Library", options: LIBRARIES }, { name: "b", kind: "choice", text: "Another", options: LIBRARIES },
    { name: "x", kind: "number", text: "Number" }, { name: "scale", kind: "number", text: "Scale" },
    { name: "zero_point", kind: "range", text: "Zero point", min: -128, max: 127, step: 1 },
  ],
  compute, draw,
  check: (state) => ({ ...state, scale: number(state.scale) > 1e-30 && number(state.scale) < 1e30 ? state.scale : 0.1, x: Number.isFinite(number(state.x)) ? state.x : 0.25 }),
});
