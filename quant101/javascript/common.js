// What all explorers share: the look, controls that a keyboard and a screen reader can use, and numbers as NumPy has them.
// An explorer is an ES module that imports from here and exports `{ render }`, as anywidget asks for. Python joins the two
// files to one (quant101.explorers), for a page and for Jupyter alike.

const STYLE = `
.q101 { --ink: var(--pst-color-text-base, var(--jp-content-font-color1, #222)); --paper: var(--pst-color-background, var(--jp-layout-color0, #fff));
  --original: #0072b2; --quantized: #c45500; --error: #a03a8e; --guide: #6b6b6b; --faint: #d9d9d9; --good: #00704f; --bad: #b3261e;
  color: var(--ink); background: var(--paper); border: 1px solid var(--guide); border-radius: 6px; padding: 0.8rem 1rem; margin: 1rem 0; font-size: 0.95rem; }
html[data-theme="dark"] .q101, [data-jp-theme-light="false"] .q101 { --original: #6cbcf0; --quantized: #f5a35b; --error: #e39ad3; --guide: #a3a3a3; --faint: #4a4a4a; --good: #5fd0a8; --bad: #ff8a80; }
.q101 .question { font-weight: 600; font-size: 1.05rem; margin: 0 0 0.6rem; }
.q101 .controls { display: flex; flex-wrap: wrap; gap: 0.5rem 1.4rem; margin: 0 0 0.7rem; padding: 0; border: 0; }
.q101 .controls label { display: flex; flex-direction: column; min-width: 9rem; flex: 1 1 9rem; max-width: 18rem; margin: 0; }
.q101 .controls label.check { flex-direction: row; align-items: center; gap: 0.5rem; }
.q101 .controls label > span { display: flex; justify-content: space-between; gap: 0.5rem; }
.q101 input, .q101 select, .q101 button { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--guide); border-radius: 4px; padding: 0.15rem 0.35rem; min-height: 2rem; }
.q101 input[type="range"] { padding: 0; border: 0; width: 100%; accent-color: var(--original); }
.q101 input[type="checkbox"] { min-height: 0; width: 1.2rem; height: 1.2rem; accent-color: var(--original); }
.q101 :is(input, select, button, [tabindex]):focus-visible { outline: 3px solid var(--original); outline-offset: 2px; }
.q101 .stage { overflow-x: auto; }
.q101 svg { display: block; max-width: 100%; }
.q101 svg text { fill: var(--ink); font-size: 12px; font-family: inherit; }
.q101 .numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 0.35rem 1.2rem; margin: 0.7rem 0 0; }
.q101 .numbers div { border-top: 1px solid var(--faint); padding-top: 0.2rem; }
.q101 .numbers dt { font-weight: normal; font-size: 0.85rem; margin: 0; overflow-wrap: anywhere; }
.q101 .numbers dd { font-variant-numeric: tabular-nums; font-weight: 600; margin: 0 !important; overflow-wrap: anywhere; }
.q101 .says { margin: 0.7rem 0 0; min-height: 3em; }
`;

export const f32 = Math.fround;

// The nearest whole number, and of two the even one.
export function rint(v) {
  const whole = Math.floor(v), rest = v - whole;
  return rest < 0.5 || (rest === 0.5 && whole % 2 === 0) ? whole : whole + 1;
}

export const clamp = (v, least, most) => Math.min(most, Math.max(least, v));
export const decibels = (signal, noise) => 10 * Math.log10(signal / noise);

// A float32 as its code and back, symmetric around 0. A scale may be longer than float32: it divides in float32.
export const fakeQuantize = (v, scale, qmax) => f32(clamp(rint(f32(v / f32(scale))), -qmax, qmax) * scale);

// The product of two matrices that are stored row by row; `inner`, the rows of the right one, is a multiple of four.
// Two rows meet four at a time, so that what was fetched is used eight times: that halves the time.
export function product(left, right, inner) {
  const rows = left.length / inner, columns = right.length / inner, out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i += 2) {
    const one = out.subarray(i * columns, (i + 1) * columns), two = out.subarray((i + 1) * columns, (i + 2) * columns);
    for (let k = 0; k < inner; k += 4) {
      const p = i * inner + k, q = k * columns, [a, b, c, d] = left.subarray(p, p + 4), [e, f, g, h] = left.subarray(p + inner, p + inner + 4);
      for (let j = 0; j < columns; j++) {
        const s = right[q + j], t = right[q + columns + j], u = right[q + 2 * columns + j], v = right[q + 3 * columns + j];
        one[j] += a * s + b * t + c * u + d * v;
        two[j] += e * s + f * t + g * u + h * v;
      }
    }
  }
  return out;
}

// JSON has no infinity, no NaN and no -0: a state holds words for them.
const WORDS = { nan: NaN, inf: Infinity, "-inf": -Infinity, "-0": -0 };
export const number = (v) => (v in WORDS ? WORDS[v] : Number(v));
export const inJson = (v) => (Number.isFinite(v) && !Object.is(v, -0) ? v : Number.isNaN(v) ? "nan" : v === 0 ? "-0" : v < 0 ? "-inf" : "inf");

// An array that Python sent: its bytes in base64, little-endian.
export function array({ type, base64 }) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return new { float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array, int32: Int32Array }[type](bytes.buffer);
}

// A number with so many digits, without zeros at the end and with a true minus.
export function digits(v, count) {
  if (!Number.isFinite(v)) return Number.isNaN(v) ? "NaN" : v < 0 ? "−∞" : "∞";
  const text = String(Number(v.toPrecision(count)));
  return (Object.is(v, -0) ? "-0" : text).replace("e+", "e").replaceAll("-", "−");
}

export const fixed = (v, places) => (Number.isFinite(v) ? v.toFixed(places).replace("-", "−") : digits(v, 1));

const SVG = new Set(["svg", "g", "path", "rect", "line", "circle", "text", "polyline", "polygon", "title"]);

// An element with attributes and children; `on…` are listeners, null and false are left out.
export function node(tag, attributes = {}, ...children) {
  const made = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

export const drawing = (width, height, alt, ...children) =>
  node("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": alt }, ...children);

// Where a value stands between two pixels.
export const between = (lo, hi, a, b) => (v) => a + ((v - lo) / (hi - lo || 1)) * (b - a);

export const label = (x, y, text, more = {}) => node("text", { x, y, ...more }, text);
export const bar = (x, y, width, height, color, more = {}) =>
  node("rect", { x, y, width: Math.max(width, 0), height: Math.max(height, 0), fill: `var(--${color})`, ...more });
export const rule = (x1, y1, x2, y2, color, more = {}) => node("line", { x1, y1, x2, y2, stroke: `var(--${color})`, ...more });
export const curve = (points, color, more = {}) =>
  node("polyline", { points: points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" "), fill: "none", stroke: `var(--${color})`, "stroke-width": 1.8, ...more });

function control(spec, change, data) {
  const { name, kind, text } = spec;
  const shown = node("output", {});
  const at = { name, onchange: (e) => change({ [name]: read(e.target) }) };
  const read = (input) => (kind === "check" ? input.checked : kind === "choice" ? input.value : inJson(number(input.value.trim().replace("−", "-") || "nan")));
  const input = kind === "choice" ? node("select", at, (typeof spec.options === "function" ? spec.options(data) : spec.options).map((word) => node("option", { value: word }, word)))
    : node("input", { ...at, type: { check: "checkbox", range: "range", number: "text" }[kind], inputmode: kind === "number" ? "decimal" : null,
      min: spec.min, max: spec.max, step: spec.step, oninput: kind === "range" ? at.onchange : () => {} });
  const show = (state) => {
    if (kind === "check") input.checked = state[name];
    else if (kind !== "number" || inJson(number(input.value)) !== state[name]) input.value = state[name];
    if (kind === "range") shown.value = (spec.says ?? ((v) => digits(v, 6)))(state[name]);
    if (kind === "range") input.setAttribute("aria-valuetext", shown.value);
    input.disabled = spec.off?.(state) ?? false;
  };
  const element = kind === "check" ? node("label", { class: "check" }, input, text)
    : node("label", {}, node("span", {}, text, kind === "range" ? shown : null), input);
  return { element, show };
}

// The frame of an explorer. `controls` describe the state; `compute(data, state)` returns what is shown: `numbers`, a list of
// [name, label, text], and `says`, a sentence; `draw(result, state, width, change)` returns the picture; `prepare(data)`, if
// there is one, is called once.
export function explorer({ question, controls, compute, draw, prepare = (data) => data, check = (state) => state }) {
  return {
    render({ model, el }) {
      const data = prepare(model.get("data"));
      const stage = node("div", { class: "stage" }), numbers = node("dl", { class: "numbers" });
      const says = node("p", { class: "says", role: "status", "aria-live": "polite" });
      const change = (some) => {
        model.set("state", check({ ...model.get("state"), ...some }, some, data));
        model.save_changes();
      };
      const made = controls.map((spec) => control(spec, change, data));
      let width = 0, waiting = 0;
      const update = () => {
        const state = model.get("state"), result = compute(data, state);
        const key = stage.contains(document.activeElement) ? document.activeElement.dataset.key : null;
        made.forEach(({ show }) => show(state));
        stage.replaceChildren(draw(result, state, width, change, data));
        if (key) stage.querySelector(`[data-key="${key}"]`)?.focus();
        numbers.replaceChildren(...result.numbers.map(([name, text, value]) =>
          node("div", {}, node("dt", {}, text), node("dd", { "data-name": name }, value))));
        clearTimeout(waiting);  // a sentence is read out when the hand rests
        waiting = setTimeout(() => (says.textContent = result.says), says.textContent ? 300 : 0);
        model.set("results", Object.fromEntries(result.numbers.map(([name, , value]) => [name, value])));
        model.save_changes();
      };
      el.replaceChildren(node("style", {}, STYLE), node("div", { class: "q101", role: "group", "aria-label": question },
        node("p", { class: "question" }, question), node("div", { class: "controls" }, made.map((one) => one.element)), stage, says, numbers));
      const resize = () => {
        const now = Math.round(Math.min(Math.max(stage.clientWidth, 280), 860));
        if (now !== width) (width = now), update();
      };
      const observer = new ResizeObserver(resize);
      observer.observe(stage);
      resize();
      model.on("change:state", update);
      return () => observer.disconnect();
    },
  };
}

// On a page there is no Python: a model of the same four functions, and the data from the element's own script.
export function mount(explorer, id) {
  const place = document.getElementById(id), values = JSON.parse(place.querySelector("script[type='application/json']").textContent);
  const listeners = [];
  const model = {
    get: (name) => values[name],
    set: (name, value) => {
      values[name] = value;
      listeners.forEach(([event, listener]) => event === `change:${name}` && listener());
    },
    save_changes: () => {},
    on: (event, listener) => listeners.push([event, listener]),
  };
  const el = place.querySelector("div");
  explorer.render({ model, el });
  place.model = model;
}
