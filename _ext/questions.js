// Questions in the page: checks a number or a choice, says what the page holds for that answer, and remembers it in this browser
// under one key. Everything that is said stands in the page itself, in the question's <details>.
(() => {
  const KEY = "quant101-answers";
  let memory = {};  // where a browser keeps nothing, for as long as the page is open

  function answers() {
    try {
      return JSON.parse(localStorage.getItem(KEY)) ?? {};
    } catch {
      return memory;
    }
  }

  function keep(all) {
    memory = all;
    try {
      if (Object.keys(all).length) localStorage.setItem(KEY, JSON.stringify(all));
      else localStorage.removeItem(KEY);
    } catch {
      // it stays in memory
    }
  }

  // A number as people write it: −6.5, 65,504, 0,5, 3e-9, 3 · 10^-9, 2**-15, 5/127, 12 dB. NaN for anything else.
  function numberOf(text, unit = "") {
    let plain = text.toLowerCase().replace(/[−–]/g, "-").replaceAll("**", "^").replace(/[·×]|\sx\s/g, "*").replace(/\s/g, "");
    if (unit && plain.endsWith(unit.toLowerCase())) plain = plain.slice(0, -unit.length);
    plain = plain.replace(/(\d),(?=\d{3}(?!\d))/g, "$1").replace(",", ".");
    const one = (t) => (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/.test(t) ? Number(t) : NaN);
    const power = (t) => t.split("^").map(one).reduceRight((exponent, base) => base ** exponent);
    const product = (t) => t.split("*").map(power).reduce((a, b) => a * b);
    return plain.split("/").map(product).reduce((a, b) => a / b);
  }

  // Which explanation belongs to an answer: its place in the list, or -1 where nothing was answered.
  function placeOf(question, text) {
    const rows = [...question.querySelectorAll("details li")], field = question.querySelector("input[type=text]");
    if (!field) return rows[text] ? Number(text) : -1;
    const value = numberOf(text, field.dataset.unit);
    if (Number.isNaN(value)) return -1;
    const hit = rows.findIndex(({ dataset: { value: v, tolerance: t } }) => v !== undefined && Math.abs(value - v) <= Number(t) + 1e-9 * Math.abs(v));
    return hit < 0 ? rows.length - 1 : hit;
  }

  const given = (question) => (question.querySelector("input[type=text]") ?? question.querySelector("input:checked"))?.value.trim() ?? "";

  function say(question, place) {
    const said = question.querySelector(".said"), row = question.querySelectorAll("details li")[place];
    question.dataset.state = row ? (row.dataset.right ? "right" : "wrong") : "";
    if (!row) {
      said.textContent = question.querySelector("input[type=text]") ? "Write a number first." : "Choose an answer first.";
      return;
    }
    const copy = row.lastElementChild.cloneNode(true);
    copy.querySelectorAll("[id]").forEach((one) => one.removeAttribute("id"));
    const verdict = document.createElement("strong");
    verdict.textContent = "Not right. ";
    said.replaceChildren(...(row.dataset.right ? [] : [verdict]), copy);
  }

  function forget(question) {
    question.dataset.state = "";
    question.querySelector(".said").replaceChildren();
    question.querySelectorAll("input").forEach((input) => (input.type === "text" ? (input.value = "") : (input.checked = false)));
  }

  function start() {
    const questions = [...document.querySelectorAll(".q101.ask")], progress = document.querySelector(".q101.tally");
    const keyOf = (question) => question.dataset.key;

    function show() {
      const all = answers(), done = questions.map((question) => all[keyOf(question)]).filter(Boolean);
      const right = done.filter((one) => one.right).length;
      progress.querySelector("[role=status]").textContent = `${done.length} of ${questions.length} answered${done.length ? `, ${right} of them right` : ""}.`;
      progress.querySelector(".erase").disabled = !done.length;
      progress.querySelector(".erase-all").hidden = Object.keys(all).length === done.length;
    }

    for (const question of questions) {
      const check = () => {
        const answer = given(question), place = answer === "" ? -1 : placeOf(question, answer);
        say(question, place);
        if (place < 0) return;
        keep({ ...answers(), [keyOf(question)]: { answer, right: question.dataset.state === "right" } });
        show();
      };
      question.querySelector(".check").addEventListener("click", check);
      question.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && event.target.matches("input")) event.preventDefault(), check();
      });
      const before = answers()[keyOf(question)];
      if (!before) continue;
      const radio = question.querySelector(`input[type=radio][value="${Number(before.answer)}"]`), field = question.querySelector("input[type=text]");
      if (radio) radio.checked = true;
      if (field) field.value = before.answer;
      const place = placeOf(question, String(before.answer));
      if (place >= 0) say(question, place);
    }

    const erase = (whose) => {
      keep(Object.fromEntries(Object.entries(answers()).filter(([key]) => !whose(key))));
      questions.forEach(forget);
      show();
    };
    const here = new Set(questions.map(keyOf));
    progress.querySelector(".erase").addEventListener("click", () => erase((key) => here.has(key)));
    progress.querySelector(".erase-all").addEventListener("click", () => erase(() => true));
    show();
  }

  start();
})();
