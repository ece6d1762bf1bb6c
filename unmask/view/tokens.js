"use strict";
// Shared by both pages: the tokens of an answer, and the tip that describes one. Needs an element #tip.
// Text of a model or a user is inserted as textContent only.
const $ = id => document.getElementById(id);
const make = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
// How each rule is shown: label, sentence, and its colour on light and on dark paper, from an element #rules.
const rules = JSON.parse($("rules").textContent);
const words = rule => rules[rule]?.label ?? rule.replaceAll("_", " ");
const colour = rule => `var(--rule-${CSS.escape(rule)}, var(--muted))`;
const palette = paper => Object.entries(rules).map(([rule, look]) => `--rule-${CSS.escape(rule)}: ${look[paper]};`).join(" ");
document.head.append(make("style", "",
  `:root { ${palette("light")} }\n@media (prefers-color-scheme: dark) { :root { ${palette("dark")} } }`));

// A token: the space before it, which is not coloured, and its word.
function blank() {
  const token = make("span", "token");
  token.append("", make("span", "word"));
  return token;
}

// kind: written, draft, masked or unwritten; filler: after the end of the answer; fresh: written by the last forward;
// before: the text that was rewritten; refused: what the model would rather have written, and the grammar does not allow.
function paint(token, { kind, text, rule, confidence, fresh, filler, pointed, before, refused }) {
  const [space, word] = token.childNodes, seen = kind !== "masked";
  const lead = text.match(/^[^\S\n]*/)[0];
  space.data = lead;
  word.textContent = seen ? text.slice(lead.length) : "";
  word.dataset.piece = text.trim() || "·";
  token.className = ["token", kind, fresh && "fresh", kind === "written" && before != null && "rewritten", refused !== undefined && (fresh || kind === "draft") && "refused", seen && filler && "filler", seen && text.includes("\n") && "newline",
    pointed && "pointed"].filter(Boolean).join(" ");
  if (rule) token.style.setProperty("--colour", colour(rule));
  if (kind === "draft") word.style.setProperty("--sure", 0.4 + 0.6 * confidence);
  else word.style.removeProperty("--sure");
}

// Adds a rule's line to a legend; returns the element for its count.
function entry(legend, rule) {
  const item = legend.appendChild(make("li", "", words(rule)));
  item.title = rules[rule]?.sentence ?? "";
  item.style.setProperty("--colour", colour(rule));
  return item.appendChild(make("b", ""));
}

// The description of a token, as elements; forward: the one that wrote or drafted it.
function describe({ kind, text, rule, confidence, forward, before, refused }) {
  const title = kind === "masked" || kind === "unwritten" ? "masked" : text.trim() ? text.trim() : text.includes("\n") ? "line break" : "end of turn";
  const lines = [make("b", "", title)];
  if (rule === "fixed") return [...lines, make("div", "", words(rule))];
  if (kind === "written") lines.push(make("div", "", `${words(rule)}, forward ${forward}`));
  if (kind === "written" && before != null) lines.push(make("div", "", `rewritten, was ${before.trim() || "end of turn"}`));
  if (refused !== undefined && kind !== "masked") lines.push(make("div", "", `in place of ${refused.trim() || "end of turn"}, which the grammar refuses`));
  if (kind === "draft") lines.push(make("div", "", `draft, forward ${forward}`));
  if (confidence !== undefined) {
    lines.push(make("div", "", confidence === null ? "written from a checked draft, or moved" : `confidence ${confidence.toFixed(3)}`));
    if (confidence !== null) {
      const bar = make("i", "");
      bar.style.setProperty("--sure", `${100 * confidence}%`);
      lines.push(bar);
    }
  }
  return lines;
}

// Shows lines above or below a point of the window; without lines it hides the tip.
function tip(lines, x, y) {
  $("tip").replaceChildren(...lines);
  if (!lines.length) return;
  const { width, height } = $("tip").getBoundingClientRect();
  const left = Math.max(8, Math.min(x - width / 2, innerWidth - width - 8));
  const top = y - height - 14 < 8 ? y + 22 : y - height - 14;
  $("tip").style.transform = `translate(${left}px, ${top}px)`;
}

// The point that a token's tip stands at.
function above(token) {
  const { left, top, width } = token.lastChild.getBoundingClientRect();
  return [left + width / 2, top];
}
