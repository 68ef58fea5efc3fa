// What JavaScript adds to the pages: copy buttons, menus that close, shortcuts, selecting rows with
// the keyboard, and live changes. Without this file every page still works, with links and forms.

const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// announce gives a sentence to screen readers.
export function announce(text) {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}

// reveal shows the elements that work only with JavaScript. It runs again for each part of the page
// that is replaced.
function reveal(root) {
  for (const b of $$("[data-copy], [data-help], [data-js]", root)) b.hidden = false;
  // On a phone, the list of tabs is wider than the screen. The positions are read just before the
  // browser draws: reading them now would make the browser lay out the page before the script ends.
  const tabs = $$(".tabs [aria-current]", root);
  if (tabs.length) requestAnimationFrame(() => tabs.forEach(center));
}

function center(tab) {
  const list = tab.closest(".tabs");
  list.scrollLeft += tab.getBoundingClientRect().left - list.getBoundingClientRect().left - (list.clientWidth - tab.offsetWidth) / 2;
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
document.querySelector("input[autofocus][aria-invalid]")?.select(); // the first key that is typed then replaces the wrong value

// The rows of the page's list. The row that the keyboard has selected has the class "current".
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
  for (const menu of $$("details.menu[open]")) if (!menu.contains(e.target)) menu.open = false; // an open menu would hide the focused element
  e.target.closest?.(".tabs a")?.scrollIntoView({ block: "nearest", inline: "nearest" }); // otherwise browsers leave half of the tab outside the screen
});

let leader = 0; // time at which "g" was typed, the first key of a shortcut

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

// Selection: the bar with the actions appears when the first row is selected.
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

// Live changes. Each page has one connection, which the browser opens again after an interruption.
// If a row has changed, the page replaces it. A new device is only announced, because a new row
// would move the other rows.
const table = () => document.querySelector("table[data-live]");
const part = () => document.querySelector("div[data-live]");
const fetching = new Set();
let arrived = 0;

async function partOf(path) {
  const answer = await fetch(path, { headers: { "HX-Request": "true", "HX-Current-URL": location.href, Accept: "text/html" }, credentials: "same-origin" });
  const to = answer.headers.get("HX-Redirect");
  if (to && wall) signedOut();
  else if (to) location.assign(to);
  return { ok: answer.ok, gone: answer.status === 404, text: answer.ok ? await answer.text() : "" };
}

function rowOf(html) {
  const t = document.createElement("template");
  t.innerHTML = `<table><tbody>${html}</tbody></table>`;
  return t.content.querySelector("tr");
}

// swap puts new cells into a row. But it keeps the cells up to the name, because they have the
// checkbox and the link: so the row keeps its selection and its focus. In the cell with the name,
// it only replaces the name.
function swap(row, next) {
  if (!next || !row.isConnected) return;
  const first = row.querySelector(".name").cellIndex + 1;
  const cells = [...next.cells].slice(first);
  [...row.cells].slice(first).forEach((cell, i) => {
    if (cells[i] && cell.innerHTML !== cells[i].innerHTML) cell.replaceWith(cells[i]);
  });
  const name = row.querySelector(".name bdi"), nextName = next.querySelector(".name bdi");
  if (name.textContent !== nextName.textContent) name.textContent = nextName.textContent;
}

// rowsOf finds the rows that are about a device. A list of revisions may have several rows about
// one device.
const rowsOf = (device) => $$(`tr[data-id="${CSS.escape(device)}"], tr[data-device="${CSS.escape(device)}"]`, table() ?? document.createElement("table"));

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

// renewAll fetches the page again and replaces the rows that the open page already has.
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

// The element #news announces new things. Its attributes give the kind of event to announce, and
// the words of the announcement.
const news = document.querySelector("#news[data-kind]"); // another line of news comes from the hub: see data-target

function announceArrivals() {
  const text = arrived === 1 ? news.dataset.one : `${arrived} ${news.dataset.many}`;
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
    let got;
    try {
      got = await partOf(at.dataset.live);
    } catch {
      return; // no connection: the next request decides
    }
    if (!got.ok) return;
    const t = document.createElement("template");
    t.innerHTML = got.text;
    const to = document.querySelector(at.dataset.target);
    const next = t.content.querySelector(at.dataset.target);
    if (wall && next) onWall(to, next);
    if (to && next && !to.contains(document.activeElement) && to.innerHTML !== next.innerHTML) to.replaceWith(next);
  }, 1000);
}

// On the page of a device, the parts that can change by themselves are marked, and each part has an
// id. renewHere replaces these parts with the parts of the newly fetched page that have the same
// ids.
const here = document.querySelector("[data-page-device]")?.dataset.pageDevice;
let renewalHere = 0;
function renewHere() {
  if (!here || renewalHere) return;
  renewalHere = setTimeout(async () => {
    renewalHere = 0;
    const got = await partOf(location.pathname + location.search);
    if (!got.ok) return;
    const page = new DOMParser().parseFromString(got.text, "text/html");
    for (const old of $$("[data-renew]")) {
      const next = page.getElementById(old.id);
      if (!next || old.contains(document.activeElement) || old.innerHTML === next.innerHTML) continue;
      old.replaceWith(next);
      reveal(next);
    }
  }, 1000);
}

// The wall is open for weeks, and nobody operates it. So it never leaves its page: after an error,
// it shows a sentence about the error and tries again. If the hub has a new version, the wall loads
// the whole page again.
const wall = document.querySelector("[data-wall]");

// A link, if there is one, is [words, address].
function say(text, link) {
  const state = document.getElementById("wall-state");
  if (!state || state.dataset.said === text) return;
  state.dataset.said = state.textContent = text;
  if (!link) return;
  const a = document.createElement("a");
  [a.textContent, a.href] = link;
  state.append(" ", a);
}

function onWall(now, next) {
  if (now.dataset.version !== next.dataset.version) location.reload();
  const id = (board) => board.querySelector("#arrivals li")?.dataset.id;
  if (id(next) && id(next) !== id(now)) announce(next.querySelector("#arrivals li").textContent);
  if (!live || live.readyState === EventSource.OPEN) say("");
  if (!live) connect();
}

function signedOut() {
  live?.close();
  live = null;
  say("The session has ended. The numbers are old.", ["Sign in", "/sign-in?next=" + encodeURIComponent(location.pathname + location.search)]);
}

// The browser itself repeats a connection that was interrupted, but not one that the hub or a proxy
// refused. The pauses grow to at most a minute, and each pause is shortened by a random part, so
// that many pages do not connect at the same moment.
let live = null, pause = 1000;

function connect() {
  const one = new EventSource("/ui/live");
  live = one;
  one.addEventListener("open", () => {
    // The hub did not report what happened since the page was made, or since the interruption.
    renewPart();
    if (pause > 1000) {
      renewAll();
      renewHere();
    }
    pause = 1000;
    say("");
  });
  one.addEventListener("error", () => {
    if (one !== live) return;
    say("No connection to the hub. Trying again.");
    pause = Math.min(2 * pause, 60_000);
    if (one.readyState !== EventSource.CLOSED) return;
    setTimeout(() => { if (one === live) connect(); }, pause * (0.5 + Math.random() / 2));
  });
  one.addEventListener("change", (e) => {
    const { device, kind } = JSON.parse(e.data);
    const known = device ? rowsOf(device) : [];
    for (const row of known) renew(row.dataset.id);
    if (device && device === here) renewHere();
    if (!known.length && news?.dataset.kind?.split(" ").includes(kind)) {
      arrived++;
      announceArrivals();
    }
    // Somebody has decided about a machine of the waiting room.
    if (kind === "device.approved" || kind === "device.denied") document.querySelector(`[data-waiting="${CSS.escape(device)}"]`)?.classList.add("gone");
    renewPart();
  });
  one.addEventListener("many", () => {
    renewAll();
    renewPart();
    renewHere();
  });
  one.addEventListener("signed-out", () => {
    if (wall) return signedOut();
    one.close();
    location.reload();
  });
}

if (table() || part() || news || here) {
  // The connection is not needed until the page is ready, and would compete with its first loading.
  if (document.readyState === "complete") connect();
  else addEventListener("load", connect, { once: true });
  // With time, texts like "2 min ago" become wrong, and no event reports that a quiet device is
  // seen again.
  setInterval(() => {
    if (document.hidden) return;
    renewAll();
    renewPart();
  }, wall ? 20_000 : 1000 * (part()?.dataset.every ?? 60));
  addEventListener("pagehide", () => live?.close());
  addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
}

// This part says in words how strong a new password is. The page does this itself, so that no
// password leaves the browser before the form is sent.
function strength(password, nick) {
  const n = [...password].length, different = new Set(password.toLowerCase()).size;
  if (n < 8) return `Too short: ${8 - n} more ${n === 7 ? "character" : "characters"}.`;
  if (nick && password.toLowerCase().includes(nick.toLowerCase())) return "Weak: it contains your nick.";
  if (different < 5 || /^(.{1,4})\1+$/.test(password)) return "Weak: it repeats itself.";
  if (/^\d+$/.test(password) || /^(0123|1234|abcd|qwer|passw)/i.test(password)) return "Weak: it is easy to guess.";
  if (n < 12) return "Fair: 12 or more characters are better.";
  return n < 16 ? "Good." : "Strong.";
}

document.addEventListener("input", (e) => {
  const box = e.target.closest?.("[data-strength]");
  if (!box || e.target.id !== box.dataset.strength) return;
  box.querySelector(".strength").textContent = e.target.value ? strength(e.target.value, box.dataset.nick) : "";
});

// If a form has data-progress, the hub answers it with a file after some time. Until then the page
// shows the progress; the browser stays on the page, because the answer is a download. An element
// with data-follow shows the progress of a build that began on another page.
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
    if (!running && !seen) continue; // the page shows the result of an earlier build
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
