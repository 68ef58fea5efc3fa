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

// Selection: the bar with the acts appears with the first selected row.
const picks = (form) => $$("tbody .pick input", form);

function showSelection() {
  const form = document.getElementById("bulk");
  if (!form) return;
  const bar = form.querySelector("[data-bulk]");
  const n = picks(form).filter((p) => p.checked).length;
  const all = form.querySelector("[data-all]");
  bar.hidden = n === 0;
  bar.classList.add("floating");
  bar.querySelector("[data-chosen]").textContent = `${n} selected`;
  if (all) {
    all.checked = n > 0 && n === picks(form).length;
    all.indeterminate = n > 0 && !all.checked;
  }
}

document.addEventListener("change", (e) => {
  if (!e.target.closest?.("#bulk")) return;
  if (e.target.matches("[data-all]")) for (const p of picks(e.target.form)) p.checked = e.target.checked;
  showSelection();
});
document.addEventListener("htmx:load", showSelection);
showSelection();

// Live changes. One connection for the page; it ends with the page, and the browser makes it again
// after an interruption. A row changes in place; a new device is announced, and never inserted.
const table = () => document.querySelector("table[data-live]");
const part = () => document.querySelector("div[data-live]");
const fetching = new Set();
let arrived = 0;

async function partOf(path) {
  const answer = await fetch(path, { headers: { "HX-Request": "true" }, credentials: "same-origin" });
  const to = answer.headers.get("HX-Redirect");
  if (to) location.assign(to);
  return { ok: answer.ok, gone: answer.status === 404, text: answer.ok ? await answer.text() : "" };
}

function rowOf(html) {
  const t = document.createElement("template");
  t.innerHTML = `<table><tbody>${html}</tbody></table>`;
  return t.content.querySelector("tr");
}

// swap puts new cells into a row. The first two cells have the box and the link: they stay, and with
// them the selection and the focus.
function swap(row, next) {
  if (!next || !row.isConnected) return;
  const cells = [...next.cells].slice(2);
  [...row.cells].slice(2).forEach((cell, i) => {
    if (cells[i] && cell.innerHTML !== cells[i].innerHTML) cell.replaceWith(cells[i]);
  });
  const name = row.cells[1].querySelector("bdi"), nextName = next.cells[1].querySelector("bdi");
  if (name.textContent !== nextName.textContent) name.textContent = nextName.textContent;
}

async function renew(id) {
  const row = table()?.querySelector(`tr[data-id="${CSS.escape(id)}"]`);
  if (!row || fetching.has(id)) return;
  fetching.add(id);
  try {
    const url = new URL(table().dataset.live, location.href);
    url.searchParams.set("id", id);
    const got = await partOf(url.pathname + url.search);
    row.classList.toggle("gone", got.gone);
    if (got.ok) swap(row, rowOf(got.text));
  } finally {
    fetching.delete(id);
  }
}

// renewAll fetches the page again and puts its rows in the place of the same rows here.
async function renewAll() {
  if (!table()) return;
  const got = await partOf(location.pathname + location.search);
  if (!got.ok) return;
  const page = new DOMParser().parseFromString(got.text, "text/html");
  for (const next of $$("table[data-live] tr[data-id]", page)) {
    const row = table()?.querySelector(`tr[data-id="${CSS.escape(next.dataset.id)}"]`);
    if (row) swap(row, next);
  }
}

function announceArrivals() {
  const news = document.getElementById("news");
  if (!news) return;
  const text = arrived === 1 ? "1 new device has come aboard." : `${arrived} new devices have come aboard.`;
  news.querySelector("span").textContent = text;
  news.hidden = false;
  announce(text);
}

let renewal = 0;
function renewPart() {
  const at = part();
  if (!at || renewal) return;
  renewal = setTimeout(async () => {
    renewal = 0;
    const got = await partOf(at.dataset.live);
    const t = document.createElement("template");
    t.innerHTML = got.text;
    const to = document.querySelector(at.dataset.target);
    const next = t.content.querySelector(at.dataset.target);
    if (to && next && !to.contains(document.activeElement) && to.innerHTML !== next.innerHTML) to.replaceWith(next);
  }, 1000);
}

if (table() || part()) {
  const live = new EventSource("/ui/live");
  live.addEventListener("change", (e) => {
    const { device, kind } = JSON.parse(e.data);
    if (device && table()?.querySelector(`tr[data-id="${CSS.escape(device)}"]`)) renew(device);
    else if (kind === "device.activated") {
      arrived++;
      announceArrivals();
    }
    renewPart();
  });
  live.addEventListener("many", () => {
    renewAll();
    renewPart();
  });
  live.addEventListener("signed-out", () => {
    live.close();
    location.reload();
  });
  // Times grow old, and a quiet device that is heard again makes no event.
  setInterval(() => {
    if (document.hidden) return;
    renewAll();
    renewPart();
  }, 60_000);
  addEventListener("pagehide", () => live.close());
  addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
}

// A form with data-progress is answered with a file after a while. Until then the page shows how far
// it is; the browser stays on the page, because the answer is a download. An element with data-follow
// does the same for what began elsewhere.
async function follow(path, seen) {
  let said = "";
  for (let tries = 0; tries < 3 || seen; tries++) {
    await new Promise((done) => setTimeout(done, 700));
    const got = await partOf(path).catch(() => ({}));
    if (!got.ok) continue;
    const t = document.createElement("template");
    t.innerHTML = got.text;
    const next = t.content.querySelector("#building"), at = document.getElementById("building");
    if (!next || !at) return;
    const running = next.hasAttribute("data-running");
    if (!running && !seen) continue; // what is there is about an earlier build
    seen = running;
    at.replaceWith(next);
    const words = next.querySelector("[data-step]")?.textContent ?? next.textContent.trim();
    if (words !== said) announce(said = words);
    if (!running) return;
  }
}

document.addEventListener("submit", async (e) => {
  const path = e.target.dataset.progress, button = e.submitter;
  if (!path) return;
  setTimeout(() => { if (button) button.disabled = true; });
  await follow(path, false);
  if (button) button.disabled = false;
});
for (const at of $$("[data-follow]")) follow(at.dataset.follow, true);
addEventListener("pageshow", () => { for (const b of $$("form[data-progress] button")) b.disabled = false; });
