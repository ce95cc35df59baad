// Chapter 7: what a product could reach on a machine, what holds it up, and what that does to a model.
import { between, clamp, curve, digits, drawing, explorer, fixed, label, node, rule } from "./common.js";

// Seconds that a product needs at least: for its operations, and for the bytes that have to move.
function seconds({ m, k, n }, peak, bandwidth, size, result) {
  const operations = (2 * m * k * n) / peak, bytes = (size * (m * k + n * k) + result * m * n) / bandwidth;
  return { operations, bytes, all: Math.max(operations, bytes) };
}

function compute({ machines }, state) {
  const { peak, float } = machines[state.machine], bandwidth = state.bandwidth * 1e9;
  const int8 = seconds(state, peak, bandwidth, 1, 4), float32 = seconds(state, float, bandwidth, 4, 4);
  const intensity = (2 * state.m * state.k * state.n) / (state.m * state.k + state.n * state.k + 4 * state.m * state.n);
  const faster = float32.all / int8.all, share = state.share / 100, model = 1 / (1 - share + share / faster);
  const held = int8.bytes > int8.operations ? "memory" : "instruction";
  const verdict = faster < 0.95 ? "int8 is slower here" : model < 1.1 ? "not worth the trouble" : model < 1.5 ? "worth a try" : "worth it";
  const says = `The int8 product is held up by the ${held}. At best it is ${digits(faster, 3)} times as fast as float32; the model, of whose time ${state.share} % are such layers, ${digits(model, 3)} times: ${verdict}.`;
  const numbers = [["intensity", "Operations per byte", digits(intensity, 4)], ["roof", "At best, Gop/s", digits(Math.min(intensity * bandwidth, peak) / 1e9, 4)],
    ["int8", "int8, µs", digits(int8.all * 1e6, 4)], ["float32", "float32, µs", digits(float32.all * 1e6, 4)], ["faster", "The layer is faster by", digits(faster, 4)],
    ["model", "The model is faster by", digits(model, 4)], ["ridge", "Operations per byte at the ridge", digits(peak / bandwidth, 4)]];
  return { numbers, says, peak, float, bandwidth, intensity, faster };
}

function draw({ peak, float, bandwidth, intensity }, state, width) {
  const x = between(-1, 4, 52, width - 10), log = Math.log10, top = Math.ceil(log(Math.max(peak, float))) + 0.2, y = between(top - 4, top, 190, 12);
  const roof = (most) => [-1, log(most / bandwidth), 4].map((i) => [x(clamp(i, -1, 4)), y(Math.max(log(Math.min(10 ** i * bandwidth, most)), top - 4))]);
  const at = Math.min(intensity * bandwidth, peak), floats = (2 * state.m * state.k * state.n) / (4 * (state.m * state.k + state.n * state.k + state.m * state.n));
  const reached = Math.min(floats * bandwidth, float), dots = [[intensity, at, "quantized", "int8"], [floats, reached, "original", "float32"]];
  return drawing(width, 226, "Two roofs, for int8 and for float32, and a point on each where this product can be at best.",
    [-1, 0, 1, 2, 3, 4].map((i) => [rule(x(i), 190, x(i), 194, "guide"), label(x(i), 208, digits(10 ** i, 3), { "text-anchor": i === 4 ? "end" : "middle" })]),
    [1, 2, 3].map((i) => { const v = Math.floor(top) - 3 + i; return [rule(48, y(v), 52, y(v), "guide"), label(44, y(v) + 4, `${digits(10 ** (v - 9), 3)}`, { "text-anchor": "end" })]; }),
    rule(52, 190, width - 10, 190, "guide"), rule(52, 12, 52, 190, "guide"), label(width - 10, 224, "operations per byte", { "text-anchor": "end" }), label(2, 10, "Gop/s"),
    curve(roof(peak), "quantized"), curve(roof(float), "original", { "stroke-dasharray": "5 3" }),
    dots.map(([i, v, color, text]) => [node("circle", { cx: x(log(clamp(i, 0.1, 1e4))), cy: y(Math.max(log(v), top - 4)), r: 6, fill: `var(--${color})` }), label(clamp(x(log(clamp(i, 0.1, 1e4))), 60, width - 60) + 10, y(log(v)) + (color === "original" ? 18 : -8), text)]));
}

export default explorer({
  question: "What can int8 reach here, and is it worth it?",
  controls: [
    { name: "machine", kind: "choice", text: "Machine", options: ({ machines }) => Object.keys(machines) },
    { name: "m", kind: "range", text: "Rows M", min: 1, max: 512, step: 1 }, { name: "k", kind: "range", text: "Inputs K", min: 64, max: 8192, step: 64 },
    { name: "n", kind: "range", text: "Outputs N", min: 64, max: 8192, step: 64 }, { name: "bandwidth", kind: "range", text: "Bandwidth, GB/s", min: 5, max: 200, step: 1 },
    { name: "share", kind: "range", text: "Share of linear layers, %", min: 0, max: 100, step: 1 },
  ],
  compute, draw,
});
