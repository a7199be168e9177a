// The console works without this script. It adds three things: pages that keep themselves up to
// date, "select all" on lists, and the count of what is selected.
"use strict";

(() => {
  const PERIOD_MS = 2000;
  // What takes longer is not up to date.
  const PATIENCE_MS = 5000;

  // ---- Live updates: the same page again, of which the parts marked data-live are taken over.

  // Makes `from` like `to`, touching only what differs: whatever stays the same keeps its focus,
  // its selection and, for <details>, whether it is open.
  function morph(from, to) {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
      from.replaceWith(to);
      return;
    }
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    // What a person has entered is theirs.
    const entered = ["INPUT", "TEXTAREA", "SELECT", "OPTION"].includes(from.nodeName);
    if (entered || from.dataset.own !== undefined) return;
    for (const { name } of [...from.attributes]) {
      const theirs = name === "open" || name === "tabindex";
      if (!theirs && !to.hasAttribute(name)) from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (name !== "open" && from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    morphChildren(from, to);
  }

  const keyOf = (node) =>
    node.nodeType === Node.ELEMENT_NODE ? node.dataset.key || node.id || null : null;

  function morphChildren(from, to) {
    const known = new Map();
    for (const child of from.childNodes) if (keyOf(child)) known.set(keyOf(child), child);
    const wanted = new Set([...to.childNodes].map(keyOf));
    const stays = (node) => keyOf(node) && wanted.has(keyOf(node));
    let place = from.firstChild;
    const drop = () => {
      const gone = place;
      place = place.nextSibling;
      gone.remove();
    };
    for (const fresh of [...to.childNodes]) {
      const key = keyOf(fresh);
      const own = key ? known.get(key) : null;
      if (own) {
        // What is in between goes first: a node that is moved loses its focus.
        while (place && place !== own && !stays(place)) drop();
        if (place === own) place = own.nextSibling;
        else from.insertBefore(own, place);
        morph(own, fresh);
      } else if (!key && place && !keyOf(place)) {
        const next = place.nextSibling;
        morph(place, fresh);
        place = next;
      } else {
        from.insertBefore(document.importNode(fresh, true), place);
      }
    }
    while (place) drop();
  }

  const regions = () => document.querySelectorAll("[data-live]");
  const announcer = document.getElementById("announcer");
  const live = document.getElementById("live");

  function take(page) {
    const focused = document.activeElement;
    for (const region of regions()) {
      const fresh = page.getElementById(region.id);
      if (!fresh) continue;
      const before = region.dataset.announce !== undefined && region.textContent;
      const held = region.contains(focused);
      if (!region.isEqualNode(fresh)) morph(region, fresh);
      if (before !== false && region.textContent.trim() !== before.trim()) {
        announcer.textContent = region.textContent.trim().replace(/\s+/g, " ");
      }
      // The row that had the focus may be gone: stay near it.
      if (held && !document.contains(focused)) {
        region.tabIndex = -1;
        region.focus({ preventScroll: true });
      }
    }
  }

  function show(state, words) {
    if (!live) return;
    live.hidden = false;
    live.className = "live " + state;
    live.querySelector(".live-state").textContent = words;
  }

  let paused = false;
  let loading = false;
  let over = false;

  const selects = () => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed &&
      [...regions()].some((region) => region.contains(selection.anchorNode));
  };

  async function refresh() {
    if (paused || loading || over || document.hidden || selects()) return;
    loading = true;
    try {
      const answer = await fetch(location.href, {
        redirect: "manual",
        cache: "no-store",
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (answer.type === "opaqueredirect") {
        over = true;
        show("away", "Session over: reload");
      } else if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!paused && !selects()) take(page);
        document.documentElement.dataset.refreshed = String(Date.now());
        if (!paused) show("on", "Live");
      } else {
        show("away", "Not up to date");
      }
    } catch {
      show("away", "Not up to date");
    }
    loading = false;
  }

  if (live && regions().length > 0) {
    show("on", "Live");
    const button = live.querySelector("button");
    button.addEventListener("click", () => {
      paused = !paused;
      button.setAttribute("aria-pressed", String(paused));
      if (paused) show("off", "Paused");
      else {
        show("on", "Live");
        refresh();
      }
    });
    setInterval(refresh, PERIOD_MS);
    document.addEventListener("visibilitychange", refresh);
  }

  // ---- Lists: select all on this page, and how many are selected.

  for (const form of document.querySelectorAll("form[data-selects]")) {
    const boxes = () => [...form.querySelectorAll("input[name=id]")];
    const update = () => {
      const all = form.querySelector("input[data-all]");
      if (!all) return;
      const chosen = boxes().filter((box) => box.checked).length;
      all.checked = chosen > 0 && chosen === boxes().length;
      all.indeterminate = chosen > 0 && !all.checked;
      const count = form.querySelector("[data-count]");
      const words = chosen === 0 ? "None selected" : `${chosen} selected`;
      if (count.textContent !== words) count.textContent = words;
    };
    form.addEventListener("change", (event) => {
      const { target } = event;
      if (target.matches("[data-all]")) for (const box of boxes()) box.checked = target.checked;
      update();
    });
    // Rows come and go with the live updates.
    new MutationObserver(update).observe(form, { childList: true, subtree: true });
    update();
  }
})();
