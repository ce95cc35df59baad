// Chapter 3: who shares a scale with whom in a layer's input, what it costs, and whether the sum lets the scales out.
import { array, bar, between, decibels, digits, drawing, explorer, f32, fakeQuantize, fixed, label, node, product, rule } from "./common.js";

// By what shares a scale: the product, and what it says of the scales of the input.
const FORMULAS = {
  tensor: ["y_ij ≈ s t_j Σ_k q_ik r_kj", "The scale can be pulled out of the sum."],
  row: ["y_ij ≈ s_i t_j Σ_k q_ik r_kj", "The scales can be pulled out of the sum."],
  column: ["y_ij ≈ t_j Σ_k u_k q_ik r_kj", "The scales cannot be pulled out: each red line is a new scale in the middle of the sum."],
  group: ["y_ij ≈ t_j Σ_g s_ig Σ_{k∈g} q_ik r_kj", "The scales cannot be pulled out of the whole sum: each red line begins a new one."],
};

// The largest magnitude of every part of a matrix, where `part(i, k)` is a part's number.
function largestOf(x, columns, parts, part) {
  const found = new Float32Array(parts);
  for (let n = 0, i = 0; n < x.length; i++) for (let k = 0; k < columns; k++, n++) found[part(i, k)] = Math.max(found[part(i, k)], Math.abs(x[n]));
  return found;
}

const squares = (x) => x.reduce((sum, v) => sum + v * v, 0);

// The weight's rows are outputs; here they become columns, as it is and with 8 bits and a scale for each output.
function prepare(data) {
  const x = array(data.x), weight = array(data.weight), [rows, columns] = data.x.shape, outputs = data.weight.shape[0];
  const scale = largestOf(weight, columns, outputs, (j) => j).map((v) => v / 127 || 1);
  const w = new Float64Array(weight.length), w8 = new Float64Array(weight.length);
  for (let k = 0; k < columns; k++) for (let j = 0; j < outputs; j++) {
    w[k * outputs + j] = weight[j * columns + k];
    w8[k * outputs + j] = fakeQuantize(weight[j * columns + k], scale[j], 127);
  }
  const y = product(new Float64Array(x), w, columns);
  return { x, w, w8, y, rows, columns, outputs, peaks: largestOf(x, columns, columns, (i, k) => k), signal: squares(x), wanted: squares(y) };
}

// How many scales there are, and which one a value has.
function sharing({ rows, columns }, { share, size }) {
  const groups = Math.ceil(columns / size);
  return { tensor: [1, () => 0], row: [rows, (i) => i], column: [columns, (i, k) => k], group: [rows * groups, (i, k) => i * groups + Math.floor(k / size)] }[share];
}

function measure({ x, w, w8, y, columns, outputs, peaks, signal, wanted, rows }, state) {
  const qmax = 2 ** (state.bits - 1) - 1, [scales, part] = sharing({ rows, columns }, state);
  const kept = peaks.map((v) => v >= f32(state.threshold)), rest = x.map((v, n) => (kept[n % columns] ? 0 : v));
  const scale = largestOf(rest, columns, scales, part).map((v) => v / qmax || 1), back = new Float64Array(x);
  const noise = new Float64Array(columns), least = new Float64Array(columns).fill(Infinity), most = new Float64Array(columns);
  for (let n = 0, i = 0; i < rows; i++) for (let k = 0; k < columns; k++, n++) {
    if (kept[k]) continue;
    const step = scale[part(i, k)];
    back[n] = fakeQuantize(x[n], step, qmax);
    noise[k] += (back[n] - x[n]) ** 2;
    least[k] = Math.min(least[k], step / 2);
    most[k] = Math.max(most[k], step / 2);
  }
  const right = state.weight ? w8.map((v, n) => (kept[Math.floor(n / outputs)] ? w[n] : v)) : w;
  const answer = product(back, right, columns), missed = answer.reduce((sum, v, n) => sum + (v - y[n]) ** 2, 0);
  const out = kept.reduce((sum, v) => sum + v, 0);
  return { kept, out, scales, least, most, errors: noise.map((v) => Math.sqrt(v / rows)),
    ofScales: (16 * scales) / x.length, ofOutliers: (out * (32 * rows + 64)) / x.length,
    input: decibels(signal, noise.reduce((sum, v) => sum + v)), output: decibels(wanted, missed) };
}

const SAYS = {
  tensor: () => "One scale for all has to reach the largest value that is left.",
  row: () => "Each token has its own scale, and it stays the same along the sum.",
  column: () => "Each column has its own scale, which changes at every step of the sum. These decibels are those of codes turned back into floats, and no integer product brings them.",
  group: (sums) => `The scale changes ${sums - 1} times along the sum, so it takes ${sums} integer sums for each output, each scaled before they are added.`,
};

function compute(data, state) {
  const found = measure(data, state), { out, scales, ofScales, ofOutliers, input, output } = found;
  const sums = state.share === "column" ? "none" : state.share === "group" ? Math.ceil(data.columns / state.size) : 1;
  const share = sums === 1 && state.share === "group" ? "row" : state.share, total = state.bits + ofScales + ofOutliers;
  const says = `${SAYS[share](sums)} ${out === 1 ? "One column stays" : `${out || "No"} columns stay`} floats. A value takes ${digits(total, 3)} bits; the input keeps ${fixed(input, 1)} dB and the output of the layer ${fixed(output, 1)} dB.`;
  const numbers = [["input", "Input, dB", fixed(input, 2)], ["output", `Output, dB, weight ${state.weight ? "of 8 bits" : "as it is"}`, fixed(output, 2)], ["bits", "Bits per value", digits(total, 4)],
    ["of_scales", "of them for scales", digits(ofScales, 3)], ["of_outliers", "of them for float columns", digits(ofOutliers, 3)], ["scales", "Scales", String(scales)],
    ["columns", "Columns that stay floats", String(out)], ["sums", "Integer sums for an output", String(sums)]];
  return { ...found, numbers, says, share, pulled: sums === 1 };
}

// A formula in which `_` lowers what follows.
const formula = (text) => text.split(/(_\{[^}]+\}|_\w+)/).map((part) => (part[0] === "_" ? node("sub", {}, part.replace(/[_{}]/g, "")) : part));

// The matrix as six of its rows, over the columns of the picture: a red line wherever the scale changes while the sum runs.
function matrix(x, columns, { kept, share }, size) {
  const apart = share === "row" || share === "group", cuts = [], every = share === "column" ? 1 : share === "group" ? size : columns;
  for (let k = every; k < columns; k += every) cuts.push(`M${x(k).toFixed(1)} 22V70`);
  return [label(x(0), 15, "Six rows of x. The sum runs this way →"),
    Array.from({ length: 6 }, (_, i) => bar(x(0), 22 + 8 * i, x(columns) - x(0), apart ? 6.5 : 8, "faint")),
    node("path", { d: cuts.join(""), stroke: "var(--bad)", "stroke-width": share === "column" ? 0.8 : 2 }),
    columnsOf(kept, true).map((k) => bar(x(k + 0.5) - 1, 22, 2.4, 48, "good"))];
}

const columnsOf = (kept, wanted) => Array.from(kept.keys()).filter((k) => Boolean(kept[k]) === wanted);

// A line through the columns that are not kept apart, with a gap where one is.
const broken = (heights, kept, x) => Array.from(heights, (v, k) => (kept[k] ? "" : `${k && !kept[k - 1] ? "L" : "M"}${x(k).toFixed(1)} ${v.toFixed(1)}H${x(k + 1).toFixed(1)}`)).join("");

function draw(result, state, width, change, { rows, columns, outputs, peaks }) {
  const { kept, least, most, errors, share, pulled, out } = result;
  const x = between(0, columns, 40, width - 6), y = (v) => between(Math.log(1e-3), Math.log(40), 270, 84)(Math.log(Math.max(v, 1e-3)));
  const stems = columnsOf(kept, false).map((k) => `M${x(k + 0.5).toFixed(1)} 270V${y(peaks[k]).toFixed(1)}`).join("");
  const floats = columnsOf(kept, true), line = (heights, color, wide) => node("path", { d: broken(Array.from(heights, y), kept, x), fill: "none", stroke: `var(--${color})`, "stroke-width": wide });
  const ticks = [0.001, 0.01, 0.1, 1, 10].map((v) => [rule(36, y(v), 40, y(v), "guide"), label(34, y(v) + 4, digits(v, 1), { "text-anchor": "end" })]);
  const [text, verdict] = FORMULAS[share], color = pulled ? "good" : "bad";
  const key = [["original", "largest value of the column"], ["quantized", `half a step${share === "row" || share === "group" ? " (thick: in the coarsest row, thin: in the finest)" : ""}`], ["error", "error, root mean square"], ["good", "stays float"]];
  return node("div", {},
    node("p", { style: `margin:0 0 0.5rem;padding:0.2rem 0 0.2rem 0.6rem;border-left:5px solid var(--${color})` },
      node("strong", { style: `color:var(--${color})` }, verdict), node("span", { style: "display:block" }, formula(text), out ? formula(" + Σ_{k∈O} x_ik w_kj") : null)),
    drawing(width, 300, `Above, six rows of the input, with ${pulled ? "no red line across the sum" : "red lines where the scale changes along the sum"}. Below, for each column its largest value, half of the step that it is rounded with, and its error.`,
      matrix(x, columns, result, state.size), node("path", { d: stems, stroke: "var(--original)", "stroke-width": Math.max(0.8, (width / columns) * 0.6), opacity: 0.45 }),
      floats.map((k) => bar(x(k + 0.5) - 1, y(peaks[k]), 2.4, 270 - y(peaks[k]), "good")),
      rule(40, y(state.threshold), width - 6, y(state.threshold), "guide", { "stroke-dasharray": "5 4" }), label(width - 8, y(state.threshold) - 4, `threshold ${digits(state.threshold, 3)}`, { "text-anchor": "end" }),
      line(most, "quantized", 2), line(least, "quantized", 1), line(errors, "error", 1.6),
      rule(40, 270, width - 6, 270, "guide"), ticks, label(40, 288, "column 0"), label(width - 6, 288, `column ${columns - 1}`, { "text-anchor": "end" })),
    node("p", { style: "margin:0.2rem 0 0;font-size:0.85rem;display:flex;flex-wrap:wrap;gap:0 1rem" },
      key.map(([name, word]) => node("span", {}, node("span", { style: `color:var(--${name})`, "aria-hidden": "true" }, "■ "), word))),
    node("p", { style: "margin:0.2rem 0 0;font-size:0.85rem" }, `All of it is computed in this page, from ${rows} tokens and ${outputs} outputs of the layer. A scale counts 16 bits, a float 32.`));
}

export default explorer({
  question: "Who shares a scale with whom, and does the sum let the scales out?",
  controls: [
    { name: "share", kind: "choice", text: "One scale for each", options: Object.keys(FORMULAS) },
    { name: "size", kind: "range", text: "Values in a group", min: 8, max: 384, step: 8, off: ({ share }) => share !== "group" },
    { name: "threshold", kind: "range", text: "Outlier threshold", min: 1, max: 30, step: 0.5 },
    { name: "bits", kind: "range", text: "Bits of a code", min: 2, max: 8, step: 1 },
    { name: "weight", kind: "check", text: "The weight has 8 bits too" },
  ],
  prepare, compute, draw,
});
