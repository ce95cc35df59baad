// Chapter 8: a sum becomes a code with whole numbers alone, and five ways to round on the way.
import { between, clamp, digits, drawing, explorer, f32, label, node, number, rint, rule } from "./common.js";

// real = multiplier * 2^(shift - 31), with a multiplier of 31 bits.
function fixedPoint(real) {
  if (!(real > 0)) return { multiplier: 0n, shift: 0 };
  let shift = Math.floor(Math.log2(real)) + 1;
  while (real >= 2 ** shift) shift += 1;
  while (real < 2 ** (shift - 1)) shift -= 1;
  let multiplier = BigInt(Math.floor((real / 2 ** shift) * 2 ** 31 + 0.5));
  if (multiplier === 2n ** 31n) (multiplier = 2n ** 30n), (shift += 1);
  return shift >= -31 ? { multiplier, shift } : { multiplier: 0n, shift: 0 };
}

const single = (acc, multiplier, shift) => (acc * multiplier + (1n << BigInt(30 - shift))) >> BigInt(31 - shift);

const ROUNDINGS = {
  gemmlowp(acc, multiplier, shift) {
    const high = single(acc, multiplier, Math.max(shift, 0)), right = BigInt(Math.max(-shift, 0)), mask = (1n << right) - 1n;
    return (high >> right) + ((high & mask) > (mask >> 1n) + (high < 0n ? 1n : 0n) ? 1n : 0n);
  },
  ruy(acc, multiplier, shift) {
    const high = single(acc, multiplier, Math.max(shift, 0)), right = BigInt(Math.max(-shift, 0));
    return (high + ((1n << right) >> 1n)) >> right;
  },
  single,
  onnx: (acc, multiplier, shift) => BigInt(rint(f32(f32(Number(acc)) * f32(Number(multiplier) * 2 ** (shift - 31))))),
};

const codes = (acc, { multiplier, shift }, zero) =>
  Object.fromEntries(Object.entries(ROUNDINGS).map(([name, scaled]) => [name, clamp(Number(scaled(BigInt(acc), multiplier, shift)) + zero, -128, 127)]));

function compute(_, { acc, real: given, zero_point }) {
  const real = number(given), made = fixedPoint(real), all = codes(acc, made, zero_point), values = Object.values(all);
  const same = (some) => Object.values(some).every((q) => q === Object.values(some)[0]);
  let next = acc + 1;
  while (next < acc + 200000 && same(codes(next, made, zero_point)) && made.multiplier) next += 1;
  const parts = made.multiplier && next < acc + 200000, meant = Number(made.multiplier) * 2 ** (made.shift - 31), exact = acc * meant;
  const says = same(all) ? `All four ways give the code ${String(values[0]).replace("-", "−")}.`
    : `The ways part: ${Object.entries(all).map(([name, q]) => `${name} ${q}`).join(", ").replaceAll("-", "−")}. The product lies at a tie, or a first rounding has put it there.`;
  const numbers = [["multiplier", "Multiplier", String(made.multiplier)], ["shift", "Shift", String(made.shift).replace("-", "−")], ["meant", "They stand for", digits(meant, 9)],
    ["exact", "Sum times that", digits(exact, 9)], ...Object.entries(all).map(([name, q]) => [name, name, String(q).replace("-", "−")]), ["next", "They part next at the sum", parts ? String(next).replace("-", "−") : "none near"]];
  return { numbers, says, all, exact, zero_point, next: parts ? next : null };
}

function draw({ all, exact, zero_point, next }, state, width, change) {
  const middle = clamp(exact, -128 - zero_point, 127 - zero_point), first = Math.floor(middle) - 2, x = between(first, first + 5, 24, width - 24);
  const ticks = [0, 1, 2, 3, 4, 5].map((k) => [rule(x(first + k), 60, x(first + k), 76, "ink"), label(x(first + k), 94, String(first + k + zero_point).replace("-", "−"), { "text-anchor": "middle" })]);
  const marks = Object.entries(all).map(([name, q], i) => [node("circle", { cx: clamp(x(q - zero_point), 6, width - 6), cy: 110 + 18 * i, r: 5, fill: "var(--quantized)" }), label(clamp(x(q - zero_point) + 10, 10, width - 70), 114 + 18 * i, name)]);
  return node("div", {}, drawing(width, 182, "A number line of codes with the exact product above it and what each way of rounding makes of it below.",
    rule(8, 68, width - 8, 68, "guide"), ticks, rule(x(middle), 34, x(middle), 68, "original", { "stroke-width": 2 }), node("circle", { cx: x(middle), cy: 34, r: 5, fill: "var(--original)" }),
    label(clamp(x(middle), 80, width - 80), 22, `exactly ${digits(exact, 8)}${zero_point ? ` ${zero_point < 0 ? "−" : "+"} ${Math.abs(zero_point)}` : ""}`, { "text-anchor": "middle" }), marks),
  node("button", { type: "button", "data-key": "next", disabled: next === null, onclick: () => change({ acc: next }) }, "Where they part next"));
}

export default explorer({
  question: "Can a sum become a code without a float?",
  controls: [
    { name: "acc", kind: "range", text: "Sum", min: -30000, max: 30000, step: 1 },
    { name: "real", kind: "number", text: "Multiply by" },
    { name: "zero_point", kind: "range", text: "Zero point", min: -128, max: 127, step: 1 },
  ],
  compute, draw,
  check: (state) => ({ ...state, real: number(state.real) >= 0 && number(state.real) < 2 ** 20 ? state.real : 0.01 }),
});
