// Shared by both pages: the bar that replays a decode. A page defines forwards(), how many its longest decode has;
// render(forward), which draws the state after so many; and quiet(), which hides its tip.
let at = 0, timer = null;

// Puts the bar where a page already is.
function place(forward) {
  at = Math.max(0, Math.min(forwards(), forward));
  $("scrub").max = forwards();
  $("scrub").value = at;
  $("where").textContent = `forward ${at} of ${forwards()}`;
  $("scrub").setAttribute("aria-valuetext", $("where").textContent);
}

function seek(forward) { place(forward); render(at); }

function pause() {
  clearInterval(timer);
  timer = null;
  $("play").classList.remove("playing");
  $("play").setAttribute("aria-label", "Play");
  $("where").setAttribute("aria-live", "polite");
}

function play() {
  if (timer !== null) return pause();
  if (at === forwards()) seek(0);
  quiet();
  $("play").classList.add("playing");
  $("play").setAttribute("aria-label", "Pause");
  $("where").setAttribute("aria-live", "off");
  timer = setInterval(() => { seek(at + 1); if (at === forwards()) pause(); }, Math.max(60, Math.min(500, 12000 / forwards())));
}

function jump(forward) { pause(); quiet(); seek(forward); }

$("play").addEventListener("click", play);
$("back").addEventListener("click", () => jump(at - 1));
$("next").addEventListener("click", () => jump(at + 1));
$("scrub").addEventListener("input", event => jump(Number(event.target.value)));
$("drafts").addEventListener("change", () => seek(at));
document.addEventListener("keydown", event => {
  const { target } = event;
  if ($("bar").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("textarea, select, input:not([type=checkbox], #scrub)")) return;  // they have their own use for keys
  const jumps = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: forwards() };
  if (event.key in jumps && target.id !== "scrub") { event.preventDefault(); jump(jumps[event.key]); }
  // So have a button, a checkbox and a summary for the space bar.
  if (event.key === " " && !target.closest("button, summary, [type=checkbox]")) { event.preventDefault(); play(); }
});
