const $ = (id) => document.getElementById(id), tip = $("tip"), cells = ".text b";
let on = null;
function row(tag, words) {
  const line = document.createElement("tr");
  for (const word of words) line.append(Object.assign(document.createElement(tag), {textContent: word}));
  return line;
}
function show(cell) {
  on?.classList.remove("on");
  on = cell;
  tip.hidden = !cell;
  if (!cell) return;
  cell.classList.add("on");
  const {p, i, k, m} = cell.dataset, names = k.split("\n"), piece = cell.parentElement;
  const weight = piece.dataset.w ?? "1";
  const whole = cell.className.includes("stop") ? "trained, stop" : piece.className;
  const state = (n) => (m ? (m[n] == "+" ? "trained" : "masked") : whole);
  const text = document.createElement("p"), table = document.createElement("table");
  text.textContent = JSON.stringify(cell.textContent);
  table.append(row("th", ["position", "id", "token", "", "weight"]));
  i.split(" ").forEach((id, n) =>
    table.append(row("td", [+p + n, id, names[n], state(n), state(n) == "masked" ? "" : weight])));
  tip.replaceChildren(text, table);
  const box = cell.getClientRects()[0], size = tip.getBoundingClientRect();
  const below = box.bottom + 8 + size.height < innerHeight;
  tip.style.left = Math.max(8, Math.min(box.left, innerWidth - size.width - 8)) + "px";
  tip.style.top = Math.max(8, below ? box.bottom + 8 : box.top - size.height - 8) + "px";
}
for (const event of ["mouseover", "focusin"])
  document.addEventListener(event, ({target}) => show(target.closest(cells)));
document.addEventListener("scroll", () => show(on), {passive: true});
document.addEventListener("keydown", (event) => {
  if (event.key == "Escape") return show(null);
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key], text = event.target.closest(".text");
  if (!step || !text) return;
  const all = [...text.querySelectorAll("b")], next = all[all.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  next.tabIndex = -1;
  next.focus({preventScroll: true});
  next.scrollIntoView({block: "nearest"});
});
$("boundaries").addEventListener("change", ({target}) => document.body.classList.toggle("boundaries", target.checked));
$("filter").addEventListener("input", ({target}) => {
  const all = [...document.querySelectorAll("article")], word = target.value.toLowerCase();
  for (const article of all) article.hidden = !article.textContent.toLowerCase().includes(word);
  $("found").textContent = word && all.filter((article) => !article.hidden).length + " of " + all.length;
});
