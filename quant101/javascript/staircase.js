// Chapter 2: a matrix on a staircase of codes; what a step costs, foretold and measured.
import { array, bar, between, clamp, curve, decibels, digits, drawing, explorer, f32, fixed, label, node, rint, rule } from "./common.js";

const ROUNDINGS = {
  "half-even": rint,
  "half-away": (v) => Math.sign(v) * (Math.trunc(Math.abs(v)) + (Math.abs(v) % 1 >= 0.5 ? 1 : 0)),
  "half-up": (v) => Math.floor(v) + (v - Math.floor(v) >= 0.5 ? 1 : 0),
  down: Math.floor, up: Math.ceil, "toward-zero": Math.trunc,
};

function prepare({ weight }) {
  const x = array(weight), absmax = x.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  const counts = new Array(120).fill(0);
  for (const v of x) counts[clamp(Math.floor(((v / absmax + 1.25) / 2.5) * 120), 0, 119)]++;
  return { x, absmax, counts, signal: x.reduce((sum, v) => sum + v * v, 0), known: {} };
}

const codeOf = (v, { scale, zero, qmin, qmax, round }) => clamp(round(f32(v / scale)) + zero, qmin, qmax);
const backOf = (q, { scale, zero }) => f32((q - zero) * scale);

// What becomes of the whole matrix; it is kept until a handle that matters moves.
function measure({ x, known }, rules, key) {
  if (known.key === key) return known;
  let noise = 0, largest = 0, saturated = 0;
  for (const v of x) {
    const free = rules.round(f32(v / rules.scale)) + rules.zero, error = v - backOf(clamp(free, rules.qmin, rules.qmax), rules);
    saturated += free < rules.qmin || free > rules.qmax;
    noise += error * error;
    largest = Math.max(largest, Math.abs(error));
  }
  return Object.assign(known, { key, noise, largest, saturated });
}

function compute(data, { bits, step, zero_point, rounding, place }) {
  const half = 2 ** (bits - 1), scale = f32(((data.absmax / (half - 1)) * step) / 20);
  const rules = { scale, zero: zero_point, qmin: -half, qmax: half - 1, round: ROUNDINGS[rounding] };
  const { noise, largest, saturated } = measure(data, rules, [bits, step, zero_point, rounding].join());
  const value = f32((data.absmax * place) / 1000), code = codeOf(value, rules), back = backOf(code, rules);
  const part = rounding.startsWith("half") ? 12 : 3, measured = decibels(data.signal, noise);
  const foretold = decibels(data.signal / data.x.length, (scale * scale) / part);
  const says = saturated ? `${saturated} of ${data.x.length} weights lie beyond the last step and are cut. The forecast knows nothing of them: it says ${fixed(foretold, 1)} dB, and ${fixed(measured, 1)} dB are left.`
    : Math.abs(measured - foretold) < 0.3 ? `No weight is cut, and the forecast from the step alone is right: ${fixed(foretold, 1)} dB foretold, ${fixed(measured, 1)} dB measured.`
    : `No weight is cut, but the forecast of ${fixed(foretold, 1)} dB misses the ${fixed(measured, 1)} dB that are measured: the steps are too long for the errors to spread evenly.`;
  const numbers = [["scale", "Scale", digits(scale, 6)], ["reach", "The codes reach", `${digits(backOf(-half, rules), 4)} to ${digits(backOf(half - 1, rules), 4)}`],
    ["value", "Your value", digits(value, 6)], ["code", "Its code", String(code).replace("-", "−")], ["back", "What comes back", digits(back, 6)],
    ["error", "Its error", digits(back - value, 4)], ["saturated", "Weights that are cut", String(saturated)], ["largest", "Largest error", digits(largest, 4)],
    ["measured", "Measured, dB", fixed(measured, 2)], ["foretold", "Foretold, dB", fixed(foretold, 2)]];
  return { numbers, says, rules, value, back, part };
}

function draw({ rules, value, back, part }, state, width, change, { absmax, counts }) {
  const reach = 1.25 * absmax, x = between(-reach, reach, 44, width - 8), y = between(-reach, reach, 190, 10);
  const steps = 400, xs = Array.from({ length: steps + 1 }, (_, i) => -reach + (2 * reach * i) / steps);
  const most = Math.max(...counts), band = rules.scale * (part === 12 ? 0.5 : 1);
  const tall = Math.max(2.2 * band, 0.02 * absmax), e = between(-tall, tall, 290, 214), error = (v) => clamp(backOf(codeOf(v, rules), rules) - v, -tall, tall);
  const place = (event) => {
    const box = event.currentTarget.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
    change({ place: clamp(Math.round((((at - 44) / (width - 52)) * 2 - 1) * 1250), -1250, 1250) });
  };
  const picture = drawing(width, 312, "Above, the staircase from values to what comes back, over the heights of the weights; below, the error between the lines of half a step.",
    node("rect", { x: 0, y: 0, width, height: 312, fill: "transparent", style: "touch-action:pan-y" }),
    counts.map((n, i) => bar(x(-reach + (2 * reach * i) / 120), 190 - (n / most) * 150, (width - 52) / 120 - 0.5, (n / most) * 150, "faint")),
    rule(x(-reach), y(-reach), x(reach), y(reach), "guide", { "stroke-dasharray": "3 3" }),
    curve(xs.map((v) => [x(v), y(clamp(backOf(codeOf(v, rules), rules), -reach, reach))]), "quantized"),
    rule(x(value), y(value), x(value), y(clamp(back, -reach, reach)), "error", { "stroke-width": 2 }),
    node("circle", { cx: x(value), cy: y(value), r: 5, fill: "var(--original)" }), node("circle", { cx: x(value), cy: y(clamp(back, -reach, reach)), r: 5, fill: "var(--quantized)" }),
    label(2, 20, "back"), label(2, 232, "error"), label(width - 8, 308, "value", { "text-anchor": "end" }),
    bar(44, e(band), width - 52, e(-band) - e(band), "faint", { opacity: 0.6 }), rule(44, e(0), width - 8, e(0), "guide"),
    curve(xs.map((v) => [x(v), e(error(v))]), "error"), node("circle", { cx: x(value), cy: e(error(value)), r: 4, fill: "var(--error)" }),
  );
  picture.addEventListener("pointerdown", place);
  picture.addEventListener("pointermove", (event) => event.buttons === 1 && place(event));
  return picture;
}

export default explorer({
  question: "How large is the error, and could you have known?",
  controls: [
    { name: "bits", kind: "range", text: "Bits of a code", min: 2, max: 8, step: 1 },
    { name: "step", kind: "range", text: "Step, in absmax / qmax", min: 2, max: 60, step: 1, says: (v) => (v / 20).toFixed(2) },
    { name: "zero_point", kind: "range", text: "Zero point", min: -127, max: 127, step: 1 },
    { name: "rounding", kind: "choice", text: "Rounding", options: Object.keys(ROUNDINGS) },
    { name: "place", kind: "range", text: "Your value, in absmax", min: -1250, max: 1250, step: 1, says: (v) => fixed(v / 1000, 3) },
  ],
  prepare, compute, draw,
  check: (state) => ({ ...state, zero_point: clamp(state.zero_point, -(2 ** (state.bits - 1)), 2 ** (state.bits - 1) - 1) }),
});
