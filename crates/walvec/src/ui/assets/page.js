// Comfort on top of a page that works without it: search as you type, keys, a live status line, a switch for the
// colours. The server renders everything; this file only exchanges parts of the page.

const TYPING_PAUSE_MS = 160;
const STATUS_EVERY_MS = 2000;
const BUSY_AFTER_MS = 150;

const form = document.getElementById("search");
const query = document.getElementById("q");
const root = document.documentElement;

for (const element of document.querySelectorAll("[data-script]")) element.hidden = false;

// ---- Exchanging parts -------------------------------------------------------------------------------------------

// Puts the children of every top-level element of the fragment into the element with the same id. The elements
// themselves stay, so that screen readers go on listening to them. Nothing changes, nothing is announced.
function exchange(html) {
  const fragment = new DOMParser().parseFromString(html, "text/html");
  for (const fresh of fragment.body.children) {
    const current = document.getElementById(fresh.id);
    if (!current || current.innerHTML === fresh.innerHTML) continue;
    current.title = fresh.title;
    current.replaceChildren(...fresh.childNodes);
  }
}

async function load(path, signal) {
  const response = await fetch(path, { signal, headers: { Accept: "text/html" } });
  if (response.status === 401) return location.reload();
  const isPage = (response.headers.get("Content-Type") ?? "").startsWith("text/html");
  if (isPage) return exchange(await response.text());
  const problem = await response.json();
  showTrouble(problem.title, problem.detail);
}

function showTrouble(title, detail) {
  const box = document.createElement("div");
  box.className = "state failed";
  box.setAttribute("role", "alert");
  box.append(Object.assign(document.createElement("h2"), { textContent: title }));
  box.append(Object.assign(document.createElement("p"), { textContent: detail }));
  document.getElementById("results").replaceChildren(box);
  document.getElementById("summary").textContent = "";
}

// ---- Search as you type -----------------------------------------------------------------------------------------

let running = null;
let pause = 0;
let shown = null;

function wanted() {
  return new URLSearchParams(new FormData(form)).toString();
}

async function search() {
  clearTimeout(pause);
  const parameters = wanted();
  if (parameters === shown) return;
  running?.abort();
  const mine = (running = new AbortController());
  const busy = setTimeout(() => root.classList.add("busy"), BUSY_AFTER_MS);
  try {
    await load(`/ui/results?${parameters}`, mine.signal);
    shown = parameters;
    const text = query.value.trim();
    history.replaceState(null, "", text ? `/?${parameters}` : "/");
    document.title = text ? `${text} · walvec` : "walvec";
  } catch (error) {
    if (error.name === "AbortError") return;
    shown = null;
    showTrouble("The server does not answer", "Is walvec still running? The search is repeated when it is back.");
  } finally {
    clearTimeout(busy);
    if (running === mine) root.classList.remove("busy");
  }
}

if (form) {
  shown = wanted();
  query.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(search, TYPING_PAUSE_MS);
  });
  form.addEventListener("change", (event) => event.target !== query && search());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
}

// ---- Keys -------------------------------------------------------------------------------------------------------

function hits() {
  return [...document.querySelectorAll(".hit")];
}

function focusHit(hit) {
  if (!hit) return query.focus();
  hit.tabIndex = -1;
  hit.focus({ preventScroll: true });
  hit.scrollIntoView({ block: "nearest" });
}

function clear() {
  query.value = "";
  query.focus();
  search();
}

document.addEventListener("keydown", (event) => {
  if (!form || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const place = event.target;
  const hit = place.closest(".hit");
  const list = hits();
  const isTyping = place.matches("input:not([type=checkbox]), textarea, select");
  if (event.key === "/" && !isTyping) {
    query.focus();
    query.select();
  } else if (event.key === "Escape") {
    clear();
  } else if (event.key === "ArrowDown" && (place === query || hit)) {
    const next = list[hit ? list.indexOf(hit) + 1 : 0];
    if (next) focusHit(next);
  } else if (event.key === "ArrowUp" && hit) {
    focusHit(list[list.indexOf(hit) - 1]);
  } else if (event.key === "Enter" && place === hit && hit) {
    for (const fold of hit.querySelectorAll(".text > input")) fold.checked = !fold.checked;
  } else {
    return;
  }
  event.preventDefault();
});

// ---- Live status ------------------------------------------------------------------------------------------------

const pulse = document.getElementById("pulse");

async function follow() {
  if (document.visibilityState === "visible") {
    try {
      await load("/ui/status");
      if (shown === null && form) search();
    } catch {
      const dot = Object.assign(document.createElement("span"), { className: "dot troubled" });
      const words = Object.assign(document.createElement("span"), { textContent: "Server not reachable" });
      pulse.replaceChildren(dot, words);
    }
  }
  setTimeout(follow, STATUS_EVERY_MS);
}

if (pulse) setTimeout(follow, STATUS_EVERY_MS);

// ---- Colours ----------------------------------------------------------------------------------------------------

document.getElementById("theme").addEventListener("click", () => {
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("walvec-theme", root.dataset.theme);
  } catch {
    // Not remembered, then.
  }
});
