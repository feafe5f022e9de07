"use strict";

// Numbers on hover, at once and on touch screens, too: the <title> of a mark or the title of an element.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);

function textOf(target) {
  const title = target.querySelector(":scope > title");
  if (title) {  // kept elsewhere, or the browser would show a second one
    target.dataset.tip = title.textContent;
    title.remove();
  } else if (target.title) {
    target.dataset.tip = target.title;
    target.removeAttribute("title");
  }
  return target.dataset.tip;
}

function showTip(event) {
  const target = event.target.closest?.(".mark, [title], [data-tip]");
  const text = target && textOf(target);
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const place = target.getBoundingClientRect();
  const middle = place.left + place.width / 2 - tip.offsetWidth / 2;
  const furthest = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const above = place.top - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(8, Math.min(middle, furthest))}px`;
  tip.style.top = `${above > 8 ? above : place.bottom + 8}px`;
}

document.addEventListener("pointerover", showTip);
document.addEventListener("focusin", showTip);
document.addEventListener("scroll", () => { tip.hidden = true; }, true);

// A click on the name of a column sorts the table by it, another click the other way round.
function orderOf(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.order ?? cell.textContent;
  return text !== "" && isFinite(text) ? Number(text) : text;
}

// sign: 1 for ascending, -1 for descending; what is no number comes after the numbers in both.
function compare(one, other, sign) {
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  return sign * (typeof one === "number" ? one - other : one.localeCompare(other));
}

function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  // Words begin with the first, numbers with the largest.
  const begin = heading.classList.contains("number") ? "descending" : "ascending";
  const opposite = {ascending: "descending", descending: "ascending"};
  const order = opposite[heading.ariaSort] ?? begin;
  const sign = order === "ascending" ? 1 : -1;
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.ariaSort = order;
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => compare(orderOf(one, column), orderOf(other, column), sign));
  table.tBodies[0].append(...rows);
}

for (const heading of document.querySelectorAll("table.sortable th")) {
  heading.tabIndex = 0;
  heading.addEventListener("click", () => sortBy(heading));
  heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sortBy(heading); });
}

// Typing into the field above a table keeps the rows that hold all of the words.
for (const field of document.querySelectorAll("input.filter")) {
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of document.getElementById(field.dataset.table).querySelectorAll("tbody tr")) {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    }
  });
}

// A click on a name in a legend shows that series alone, a second click all of them again.
for (const key of document.querySelectorAll("button.key")) {
  key.addEventListener("click", () => {
    const alone = key.ariaPressed !== "true";
    const box = key.closest("section");
    for (const other of box.querySelectorAll("button.key")) {
      other.ariaPressed = String(alone && other === key);
    }
    for (const mark of box.querySelectorAll("[data-series]")) {
      mark.classList.toggle("dim", alone && mark.dataset.series !== key.dataset.name);
    }
  });
}
