// Chapter 4: a threshold over six real tensors, and what each measure of the loss makes of it.
import { array, bar, between, clamp, decibels, digits, drawing, explorer, f32, fakeQuantize, fixed, label, node, product, rule } from "./common.js";

const BINS = 2048, LEVELS = 128;  // of the recipe of TensorRT for int8
const RULES = { mse: "squared error", kl: "KL divergence", percentile: "99.9th percentile", first: "first tokens' answer", others: "other tokens' answer" };
const GELU = "gelu(ffn output)";

// Magnitudes in order: the difference of each to the one before, as integers, in as many bytes of seven bits as it takes.
function unpack(bytes) {
  const found = [];
  let pattern = 0, difference = 0, weight = 1;
  for (const byte of bytes) {
    difference += (byte & 127) * weight;
    weight *= 128;
    if (byte < 128) (pattern += difference), found.push(pattern), (difference = 0), (weight = 1);
  }
  return new Float32Array(Int32Array.from(found).buffer);
}

// By its series, in which nothing is subtracted; from 6 on it is 1 in float64.
function erf(v) {
  const size = Math.abs(v);
  if (size >= 6) return Math.sign(v);
  let term = size, sum = size;
  for (let n = 3; term > 1e-17 * sum; n += 2) sum += term *= (2 * size * size) / n;
  return Math.sign(v) * (2 / Math.sqrt(Math.PI)) * Math.exp(-size * size) * sum;
}

const ROOT = f32(Math.SQRT2);
const gelu = (v) => f32(f32(0.5 * v) * (1 + erf(f32(v / ROOT))));

// The layer's answer; `weight` has outputs as rows.
function answer({ bias }, x, weight) {
  const outputs = bias.length, inputs = weight.length / outputs, turned = new Float64Array(weight.length);
  for (let j = 0; j < outputs; j++) for (let k = 0; k < inputs; k++) turned[k * outputs + j] = weight[j * inputs + k];
  return product(new Float64Array(x), turned, inputs).map((sum, n) => gelu(f32(f32(sum) + bias[n % outputs])));
}

// The counts of equal bins of |x|; the edges are rounded to float32, and decide.
function count(values, largest) {
  const counts = new Float64Array(BINS), edge = (k) => f32((k * largest) / BINS);
  for (const v of values) {
    const size = Math.abs(v);
    let k = Math.min(Math.floor((size / largest) * BINS), BINS - 1);
    if (size < edge(k)) k--;
    else if (k < BINS - 1 && size >= edge(k + 1)) k++;
    counts[k]++;
  }
  return counts;
}

const upTo = (values) => values.reduce((sums, v, k) => ((sums[k + 1] = sums[k] + v), sums), new Float64Array(values.length + 1));
const groupEnd = (group, kept) => Math.ceil((group * kept) / LEVELS);

// The divergence if the first bins are kept, in sums that were made before, as the chapter derives it.
function divergence({ below, filled, own, entropies }, kept) {
  const n = below[BINS], s = below[kept], pile = n - s, last = s - below[kept - 1];
  if (pile > 0 && last === 0) return Infinity;
  let total = own[kept] + (pile > 0 ? (last + pile) * Math.log(last + pile) - entropies[kept - 1] : 0);
  for (let g = 0; g < LEVELS; g++) {
    const from = groupEnd(g, kept), to = groupEnd(g + 1, kept), inside = below[to] - below[from], bins = filled[to] - filled[from];
    if (bins > 0) total -= (inside + (g === LEVELS - 1 ? pile : 0)) * Math.log(inside / bins);
  }
  const kl = Math.max(total / n + Math.log(s / n), 0);
  return kl < 1e-12 ? 0 : kl;
}

function prepare(data) {
  const x = array(data.x), weight = array(data.weight), layer = { bias: array(data.bias), first: new Set(array(data.first)) };
  const made = { ffn_weight: () => weight, ffn_input: () => x, [GELU]: () => new Float32Array((layer.wanted ??= answer(layer, x, weight))) };
  for (const [name, bytes] of Object.entries(data.packed)) made[name] = () => unpack(array(bytes));
  const shares = array(data.shares), curves = {};
  for (const [name, own] of Object.entries(data.curves)) curves[name] = Object.fromEntries(Object.entries(own).map(([measure, dB]) => [measure, array(dB)]));
  return { x, weight, layer, made, mse: data.mse, shares, curves, known: {}, last: {} };
}

// What is known of a tensor whatever the threshold: where each measure is best, and how much it loses elsewhere, as points of
// a share of the range and the decibels that are missing. It is found out when the tensor is first chosen.
function about({ made, mse, shares, curves, known }, name) {
  if (known[name]) return known[name];
  const values = made[name](), sizes = values.map(Math.abs).sort(), largest = sizes[sizes.length - 1], counts = count(values, largest);
  const entropies = counts.map((c) => c * Math.log(Math.max(c, 1)));
  const sums = { below: upTo(counts), filled: upTo(counts.map((c) => (c > 0 ? 1 : 0))), own: upTo(entropies), entropies };
  const tried = Array.from({ length: BINS - LEVELS }, (_, i) => divergence(sums, LEVELS + i)), kl = tried.indexOf(tried.reduce((a, b) => Math.min(a, b)));
  const best = { mse: mse[name], kl: (LEVELS + kl + 0.5) * (largest / BINS), percentile: sizes[Math.ceil((999 * sizes.length) / 1000) - 1] };
  const lost = { kl: tried.map((v, i) => [(LEVELS + i + 0.5) / BINS, decibels(v, tried[kl])]) };
  for (const [measure, dB] of Object.entries(curves[name])) {
    const most = dB.reduce((a, b) => Math.max(a, b)), place = shares[dB.indexOf(most)];
    if (measure !== "mse") best[measure] = place === 1 ? largest : place * largest;
    lost[measure] = Array.from(dB, (v, i) => [shares[i], most - v]);
  }
  return (known[name] = { values, largest, counts, sums, width: largest / BINS, best, lost, signal: values.reduce((sum, v) => sum + v * v, 0) });
}

// Signal and noise of the layer's answer, in the first tokens and in the others.
function judge({ x, weight, layer }, name, back) {
  const wanted = (layer.wanted ??= answer(layer, x, weight)), outputs = layer.bias.length;
  const got = name === "ffn_input" ? answer(layer, back, weight) : answer(layer, x, back), sums = [[0, 0], [0, 0]];
  wanted.forEach((v, n) => {
    const [kind, error] = [sums[layer.first.has(Math.floor(n / outputs)) ? 0 : 1], v - got[n]];
    (kind[0] += v * v), (kind[1] += error * error);
  });
  return sums.map(([signal, noise]) => decibels(signal, noise));
}

function measure(data, { tensor, kept }) {
  const key = `${tensor} ${kept}`, tensorOf = about(data, tensor), { values, largest, width, sums, signal } = tensorOf;
  if (data.last.key === key) return data.last;
  const threshold = kept === BINS ? largest : (kept + 0.5) * width, scale = threshold / 127, back = new Float32Array(values.length);
  let clipped = 0, rounding = 0, clipping = 0;
  values.forEach((v, n) => {
    const error = v - (back[n] = fakeQuantize(v, scale, 127));
    if (Math.abs(v) > f32(threshold)) clipped++, (clipping += error * error);
    else rounding += error * error;
  });
  const layer = tensor === "ffn_input" || tensor === "ffn_weight" ? judge(data, tensor, back) : null;
  return (data.last = { key, ...tensorOf, threshold, clipped, rounding: rounding / values.length, clipping: clipping / values.length,
    db: decibels(signal, rounding + clipping), kl: kept === BINS ? null : divergence(sums, kept), layer });
}

function compute(data, state) {
  const found = measure(data, state), { threshold, clipped, values, rounding, clipping, db, kl, layer, best } = found, none = "no layer here";
  const blame = (100 * clipping) / (rounding + clipping), words = (n) => n.toLocaleString("en");
  const cut = clipped ? `${words(clipped)} of ${words(values.length)} values are clipped and make ${blame > 99.9 ? "nearly all" : `${digits(blame, 3)} %`} of the squared error.` : "Nothing is clipped; all of the error is rounding.";
  const says = `${cut} ${layer ? `The layer's answer has ${fixed(layer[0], 1)} dB in the first tokens, which are served best at ${digits(best.first, 3)}, and ${fixed(layer[1], 1)} dB in the others, which are served best at ${digits(best.others, 3)}.`
    : "There is no layer for this tensor among the samples, so nobody can say here what its errors cost."}`;
  const numbers = [["threshold", "Threshold t", digits(threshold, 5)], ["clipped", "Values clipped", String(clipped)], ["share", "Share clipped, %", digits((100 * clipped) / values.length, 3)],
    ["rounding", "Rounding error", digits(rounding, 4)], ["clipping", "Clipping error", digits(clipping, 4)], ["sum", "Both, mean squared", digits(rounding + clipping, 4)], ["db", "The tensor, dB", fixed(db, 2)],
    ["kl", "KL divergence", kl === null ? "not tried" : digits(kl, 4)], ["first", "Answer, first tokens, dB", layer ? fixed(layer[0], 2) : none], ["others", "Answer, others, dB", layer ? fixed(layer[1], 2) : none]];
  return { ...found, numbers, says };
}

const OVER = "paint-order:stroke;stroke:var(--paper);stroke-width:4px";  // of a text that stands over a line
const COLORS = { mse: "error", kl: "quantized", percentile: "guide", first: "original", others: "good" };
const nearest = (t, { largest, width }) => (t >= largest ? BINS : clamp(Math.round(t / width - 0.5), LEVELS, BINS - 1));

// Q: in each group of bins the mean of those that are not empty.
const meanOf = ({ below, filled }, group, kept) => {
  const from = groupEnd(group, kept), to = groupEnd(group + 1, kept);
  return (below[to] - below[from]) / Math.max(filled[to] - filled[from], 1);
};

// The outline of bins over a floor, an empty bin on the floor.
const outline = (from, to, x, height, floor) => `M${x(from).toFixed(1)} ${floor}${Array.from({ length: to - from }, (_, i) => `V${height(from + i).toFixed(1)}H${x(from + i + 1).toFixed(1)}`).join("")}V${floor}`;

function whole({ counts, sums, largest, width: step }, kept, pile, x, y, floor) {
  const at = (k) => x(k * step), groups = Array.from({ length: LEVELS }, (_, g) => [groupEnd(g, kept), groupEnd(g + 1, kept), meanOf(sums, g, kept)]);
  return [node("path", { d: outline(kept, BINS, at, (k) => y(counts[k]), floor), fill: "var(--guide)", opacity: 0.6 }),
    node("path", { d: outline(0, kept, at, (k) => y(counts[k]), floor), fill: "var(--original)", opacity: 0.55 }),
    node("path", { d: groups.map(([from, to, mean]) => (mean ? `M${at(from).toFixed(1)} ${y(mean).toFixed(1)}H${at(to).toFixed(1)}` : "")).join(""), stroke: "var(--quantized)", "stroke-width": 1.8 }),
    pile ? bar(at(kept) - 2, y(counts[kept - 1] + pile), 3, floor - y(counts[kept - 1] + pile), "error") : null,
    rule(x(0), floor, x(largest), floor, "guide")];
}

// The last bins before the threshold, and some beyond it.
function closeUp({ counts, sums }, kept, pile, width, y, floor) {
  const room = width < 500 ? 30 : 60, beyond = Math.min(8, BINS - kept);
  let group = LEVELS - 1;
  while (group > 0 && kept - groupEnd(group - 1, kept) <= room) group--;
  const start = groupEnd(group, kept), x = between(start, kept + beyond, 8, width - 8), wide = x(start + 1) - x(start), made = [];
  for (let k = start; k < kept + beyond; k++) made.push(bar(x(k) + wide * 0.1, y(counts[k]), wide * 0.8, floor - y(counts[k]), k < kept ? "original" : "guide", { opacity: 0.6 }));
  for (let g = group; g < LEVELS; g++) for (let k = groupEnd(g, kept); k < groupEnd(g + 1, kept); k++) if (counts[k]) made.push(rule(x(k), y(meanOf(sums, g, kept)), x(k + 1), y(meanOf(sums, g, kept)), "quantized", { "stroke-width": 2.5 }));
  if (pile) made.push(bar(x(kept - 1) + wide * 0.1, y(counts[kept - 1] + pile), wide * 0.8, y(counts[kept - 1]) - y(counts[kept - 1] + pile), "error"));
  return [made, rule(8, floor, width - 8, floor, "guide"), label(8, floor + 15, `bin ${start}`), label(clamp(x(kept), 60, width - 60), floor + 15, `${kept} bins kept`, { "text-anchor": "middle" })];
}

// A measure: a hill whose summit is its best place, and whose foot is 10 dB down.
function lane(name, { best, lost, largest }, x, y) {
  const place = best[name], height = (dB) => y + 32 - 20 * clamp(1 - dB / 10, 0, 1), points = (lost[name] ?? []).map(([share, dB]) => `L${x(share * largest).toFixed(1)} ${height(dB).toFixed(1)}`);
  return [points.length ? node("path", { d: `M${x(0)} ${y + 32}${points[0].replace(/ .*/, ` ${y + 32}`)}${points.join("")}V${y + 32}Z`, fill: `var(--${COLORS[name]})`, stroke: `var(--${COLORS[name]})`, "stroke-width": 0.7, "fill-opacity": 0.3 }) : null,
    rule(x(0), y + 32, x(largest), y + 32, "faint"), place === undefined ? null : node("circle", { cx: x(place), cy: points.length ? y + 12 : y + 32, r: 5, fill: `var(--${COLORS[name]})` }),
    label(8, y + 6, `${RULES[name]}: ${place === undefined ? "no layer for this tensor" : digits(place, 4)}`, { "data-best": name, style: OVER })];
}

function draw(found, { kept }, width, change) {
  const { counts, sums, largest, threshold, best, kl } = found, pile = sums.below[BINS] - sums.below[kept], x = between(0, largest, 8, width - 8);
  const most = Math.log(Math.max(...counts, counts[kept - 1] + pile) * 1.5), over = (floor, top) => (c) => (c > 0 ? between(Math.log(0.6), most, floor, top)(Math.log(c)) : floor);
  const names = Object.keys(RULES), low = 184 + 46 * names.length, t = x(threshold), own = names.filter((name) => name in best);
  const pileSays = kl === Infinity ? "Q calls the pile's bin impossible" : pile ? `a pile of ${pile} values on the last bin` : "nothing lies beyond";
  const picture = drawing(width, low + 150, `Above, counts of magnitudes with the threshold at ${digits(threshold, 4)}. Below it, where each measure is best: ${own.map((name) => `${RULES[name]} ${digits(best[name], 4)}`).join(", ")}. At the bottom, P and Q in the bins next to the threshold.`,
    bar(0, 0, width, low, "paper", { style: "touch-action:pan-y" }), whole(found, kept, pile, x, over(138, 22), 138),
    label(8, 12, "values in each bin of |x|, logarithmic"), label(8, 153, "0"), t < width - 130 ? label(width - 8, 153, digits(largest, 4), { "text-anchor": "end" }) : null,
    rule(t, 18, t, low - 4, "ink", { "stroke-width": 1.5 }), label(8, 175, "hills: best on top, −10 dB at the foot", { "font-weight": 700, style: OVER }),
    names.map((name, i) => lane(name, found, x, 190 + 46 * i)),
    label(clamp(t, 44, width - 44), 153, `t = ${digits(threshold, 4)}`, { "text-anchor": "middle", "font-weight": 700, style: OVER }),
    label(8, low + 20, `next to t: ${pileSays}`, { "font-weight": 700 }), closeUp(found, kept, pile, width, over(low + 128, low + 34), low + 128));
  const move = (event) => {
    const box = picture.getBoundingClientRect(), place = between(8, width - 8, 0, largest)(((event.clientX - box.left) / box.width) * width);
    if (((event.clientY - box.top) / box.height) * (low + 150) < low) change({ kept: nearest(place, found) });
  };
  picture.addEventListener("pointerdown", move);
  picture.addEventListener("pointermove", (event) => event.buttons === 1 && move(event));
  const key = [["original", "P, counts of |x|"], ["error", "P, the pile of what is clipped"], ["quantized", "Q, what 128 levels can tell"], ["guide", "clipped"]];
  return node("div", {}, picture,
    node("p", { style: "margin:0.2rem 0 0.5rem;font-size:0.85rem;display:flex;flex-wrap:wrap;gap:0 1rem" }, key.map(([name, word]) => node("span", {}, node("span", { style: `color:var(--${name})`, "aria-hidden": "true" }, "■ "), word))),
    node("div", { style: "display:flex;flex-wrap:wrap;gap:0.4rem;align-items:center;font-size:0.9rem", role: "group", "aria-label": "Move the threshold to the best place of a measure" }, "Go to the best place of",
      own.map((name) => node("button", { type: "button", "data-key": name, onclick: () => change({ kept: nearest(best[name], found) }) }, RULES[name]))),
    node("p", { style: "margin:0.5rem 0 0;font-size:0.85rem" }, `Computed in this page: every number below, at your threshold, P and Q, and the hill of the divergence. Computed beforehand by quant101: the other hills, at ${found.lost.mse.length} thresholds.`));
}

export default explorer({
  question: "Where would you clip, and who pays for it?",
  controls: [
    { name: "tensor", kind: "choice", text: "Tensor", options: ({ made }) => Object.keys(made) },
    { name: "kept", kind: "range", text: "Threshold, % of max", min: LEVELS, max: BINS, step: 1, says: (v) => fixed(Math.min((100 * (v + 0.5)) / BINS, 100), 1) },
  ],
  prepare, compute, draw,
});
