// What the pages do more with JavaScript: copy buttons, menus that close, shortcuts, the row that
// the keyboard is on. Without this file every page works, with links and forms.

const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// announce says a sentence to screen readers.
export function announce(text) {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}

// reveal shows what only works with JavaScript. It runs again for parts that change in place.
function reveal(root) {
  for (const b of $$("[data-copy], [data-help], [data-js]", root)) b.hidden = false;
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    announce("The browser does not let this page copy. Select the text instead.");
    return;
  }
  button.classList.add("done");
  announce("Copied.");
  setTimeout(() => button.classList.remove("done"), 1500);
}

document.addEventListener("click", (e) => {
  const button = e.target.closest("[data-copy]");
  if (button) copy(button);
  if (e.target.closest("[data-help]")) document.getElementById("help")?.showModal();
  for (const menu of $$("details.menu[open]")) if (!menu.contains(e.target)) menu.open = false;
});

document.addEventListener("htmx:load", (e) => reveal(e.detail.elt));
reveal(document);

// The rows of the page's list. The row that the keyboard is on has the class "current".
const rows = () => $$("table.rows tbody tr").filter((r) => r.querySelector(".row-link"));

function move(by) {
  const list = rows();
  if (!list.length) return;
  const at = list.findIndex((r) => r.classList.contains("current"));
  const next = list[Math.max(0, Math.min(list.length - 1, at + by))];
  for (const r of list) r.classList.toggle("current", r === next);
  next.querySelector(".row-link").focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

document.addEventListener("focusin", (e) => {
  const row = e.target.closest?.("table.rows tbody tr");
  if (row) for (const r of rows()) r.classList.toggle("current", r === row);
});

let leader = 0; // when "g" was typed

document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") {
    const menu = e.target.closest?.("details.menu[open]") ?? document.querySelector("details.menu[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    } else if (e.target.matches?.("input, textarea, select")) {
      e.target.blur();
    }
    return;
  }
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest?.("input, textarea, select, dialog") || e.isComposing) return;
  if (leader && Date.now() - leader < 1500) {
    leader = 0;
    const to = document.querySelector(`.rail a[data-key="${CSS.escape(e.key)}"]`);
    if (to) {
      e.preventDefault();
      to.click();
    }
    return;
  }
  const act = {
    g: () => { leader = Date.now(); },
    j: () => move(1),
    k: () => move(-1),
    x: () => document.querySelector("tr.current .pick input")?.click(),
    "/": () => document.querySelector("input[type=search]")?.focus(),
    "?": () => document.getElementById("help")?.showModal(),
  }[e.key];
  if (act) {
    e.preventDefault();
    act();
  }
});
