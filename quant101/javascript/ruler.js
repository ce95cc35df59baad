// Chapter 5: a ruler of codes laid over a range; where zero lands and how many codes lie idle.
import { bar, between, clamp, digits, drawing, explorer, fixed, label, node, rint, rule } from "./common.js";

// Scale and zero point of both kinds, as symmetric_qparams and asymmetric_qparams find them.
function parameters(lo, hi, { bits, kind, narrow }) {
  const half = 2 ** (bits - 1), symmetric = kind === "symmetric";
  const qmin = symmetric ? -half + (narrow ? 1 : 0) : 0, qmax = symmetric ? half - 1 : 2 * half - 1;
  const absmax = Math.max(-lo, hi), low = symmetric ? -absmax : Math.min(lo, 0), high = symmetric ? absmax : Math.max(hi, 0);
  if (low === high) return { scale: 1, zero: symmetric ? Math.floor((qmin + qmax + 1) / 2) : 0, qmin, qmax };
  const scale = (high - low) / (qmax - qmin);
  return { scale, zero: symmetric ? Math.floor((qmin + qmax + 1) / 2) : rint(qmin - low / scale), qmin, qmax };
}

const codeOf = (v, { scale, zero, qmin, qmax }) => clamp(rint(v / scale) + zero, qmin, qmax);

function compute(data, state) {
  const { lo, hi } = state, p = parameters(lo, hi, state), other = parameters(lo, hi, { ...state, kind: state.kind === "symmetric" ? "asymmetric" : "symmetric" });
  const first = codeOf(lo, p), last = codeOf(hi, p), idle = p.qmax - p.qmin + 1 - (last - first + 1);
  const gain = 20 * Math.log10(other.scale / p.scale), here = lo <= 0 && hi >= 0 ? "inside" : "outside";
  const says = `${idle} of ${p.qmax - p.qmin + 1} codes are never used. Zero becomes the code ${String(p.zero).replace("-", "−")} and comes back as 0; it lies ${here} your range. ` +
    (Math.abs(gain) < 0.05 ? "The other kind of ruler has steps of the same length." : `The other kind has steps ${digits(other.scale / p.scale, 3)} times as long, ${fixed(Math.abs(gain), 1)} dB ${gain > 0 ? "worse" : "better"}.`);
  const numbers = [["scale", "Scale", digits(p.scale, 6)], ["zero_point", "Zero point", String(p.zero).replace("-", "−")], ["codes", "Codes", `${p.qmin} to ${p.qmax}`.replaceAll("-", "−")],
    ["first", "Code of the lower end", String(first).replace("-", "−")], ["last", "Code of the upper end", String(last).replace("-", "−")], ["idle", "Codes never used", String(idle)],
    ["low", "The ruler begins at", digits((p.qmin - p.zero) * p.scale, 5)], ["high", "It ends at", digits((p.qmax - p.zero) * p.scale, 5)], ["gain", "Against the other kind, dB", fixed(gain, 2)]];
  return { numbers, says, p, first, last };
}

function draw({ p, first, last }, { lo, hi }, width, change) {
  const begin = Math.min((p.qmin - p.zero) * p.scale, lo, 0), end = Math.max((p.qmax - p.zero) * p.scale, hi, 0), room = (end - begin) * 0.04 || 1;
  const x = between(begin - room, end + room, 8, width - 8), at = (q) => x((q - p.zero) * p.scale);
  const count = p.qmax - p.qmin + 1, ticks = [];
  for (let q = p.qmin; q <= p.qmax; q += 1) {
    if (count > 128 && q % 4) continue;  // on a long ruler every fourth code has its mark
    const used = q >= first && q <= last;
    ticks.push(rule(at(q), 78, at(q), used ? 96 : 88, used ? "quantized" : "guide"));
  }
  const idle = (from, to) => bar(at(from), 70, at(to) - at(from), 34, "faint", { opacity: 0.7 });
  return drawing(width, 132, "A ruler with a mark for every code under the bar of the range; idle codes are grey, and a line shows where zero lies.",
    bar(x(lo), 34, Math.max(x(hi) - x(lo), 2), 18, "original"), label(clamp(x(lo), 30, width - 40), 28, digits(lo, 4), { "text-anchor": "middle" }),
    label(clamp(x(hi), 60, width - 30), 28, digits(hi, 4), { "text-anchor": "middle" }),
    first > p.qmin ? idle(p.qmin, first) : null, last < p.qmax ? idle(last, p.qmax) : null, rule(at(p.qmin), 78, at(p.qmax), 78, "quantized", { "stroke-width": 2 }), ticks,
    rule(x(0), 14, x(0), 108, "error", { "stroke-width": 2 }), label(clamp(x(0), 30, width - 30), 122, `0 is code ${String(p.zero).replace("-", "−")}`, { "text-anchor": "middle" }));
}

export default explorer({
  question: "Where does zero go, and which codes are never used?",
  controls: [
    { name: "tensor", kind: "choice", text: "Range of", options: ({ ranges }) => [...Object.keys(ranges), "your own"] },
    { name: "lo", kind: "range", text: "Smallest value", min: -32, max: 32, step: 0.01, says: (v) => digits(v, 4) },
    { name: "hi", kind: "range", text: "Largest value", min: -32, max: 32, step: 0.01, says: (v) => digits(v, 4) },
    { name: "kind", kind: "choice", text: "Ruler", options: ["symmetric", "asymmetric"] },
    { name: "bits", kind: "range", text: "Bits of a code", min: 2, max: 8, step: 1 },
    { name: "narrow", kind: "check", text: "Leave the smallest code out", off: (state) => state.kind !== "symmetric" },
  ],
  compute, draw,
  check: (state, change, { ranges }) => {
    const [lo, hi] = change.tensor && ranges[change.tensor] ? ranges[change.tensor] : [state.lo, state.hi];
    const own = "lo" in change || "hi" in change ? { tensor: "your own" } : {};
    return { ...state, ...own, lo: "hi" in change ? Math.min(lo, hi) : lo, hi: Math.max(lo, hi) };
  },
});
