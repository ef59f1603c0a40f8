// Sorting and filtering of the table. Without this script it is whole and in order.
"use strict";
(() => {
  const table = document.querySelector(".matrix table");
  if (!table) return;
  const body = table.tBodies[0];
  const lines = [...body.rows];
  const form = document.querySelector(".filters");
  const status = document.querySelector(".status");
  const collator = new Intl.Collator("en", { numeric: true });
  let sorted = "";

  function say() {
    const shown = lines.filter((line) => !line.hidden).length;
    status.textContent = `${shown} of ${lines.length} rows${sorted}.`;
  }

  function order(line, column) {
    return line.cells[column].dataset.order ?? line.cells[column].textContent.trim();
  }

  function sort(head, column) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const empty = (text) => text === "";
    const moved = [...body.rows].sort((one, other) => {
      const [a, b] = [order(one, column), order(other, column)];
      // What has no value is last either way.
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      const found = isFinite(a) && isFinite(b) ? a - b : collator.compare(a, b);
      return down ? -found : found;
    });
    body.append(...moved);
    sorted = `, sorted by ${head.textContent.trim()}, ${down ? "descending" : "ascending"}`;
    say();
  }

  function filter() {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...form.querySelectorAll("select")].filter((one) => one.value !== "");
    for (const line of lines) {
      const text = line.textContent.toLowerCase();
      line.hidden = !(
        chosen.every((one) => line.getAttribute(`data-${one.name}`) === one.value.slice(1)) &&
        words.every((word) => text.includes(word))
      );
    }
    say();
  }

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, column));
    head.append(button);
  });
  if (form) {
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.querySelector("button").addEventListener("click", () => {
      for (const one of form.querySelectorAll("select")) one.value = "";
      form.elements.words.value = "";
      filter();
    });
    form.hidden = false;
    filter();
  } else {
    say();
  }

  // A link to what is folded away unfolds it.
  function unfold() {
    const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let one = place; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
    if (place) place.scrollIntoView();
  }
  addEventListener("hashchange", unfold);
  unfold();
})();
