"use strict";
(() => {
  const $ = (selector, parent = document) => [...parent.querySelectorAll(selector)];

  // Times: relative text that stays current, and the local time in the title.
  const units = [[86400, "d", 172800], [3600, "h", 3600], [60, "min", 60], [1, "s", 0]];
  const showTimes = (parent = document) => {
    for (const time of $("time", parent)) {
      const at = new Date(time.dateTime);
      if (isNaN(at)) continue;
      const seconds = Math.trunc((Date.now() - at) / 1000);
      const [size, unit] = units.find(([, , from]) => Math.abs(seconds) >= from);
      const rough = `${Math.trunc(Math.abs(seconds) / size)} ${unit}`;
      time.textContent = seconds < 0 ? `in ${rough}` : `${rough} ago`;
      time.title = `${time.dateTime}\n${at.toLocaleString()} local time`;
    }
  };
  showTimes();
  setInterval(showTimes, 5000);

  // Copy buttons. The page shows an invisible character as an escape, and the copy has the character.
  const original = (element) => {
    const copy = element.cloneNode(true);
    for (const escape of $(".escape", copy)) {
      escape.replaceWith(String.fromCodePoint(parseInt(escape.textContent.slice(3, -1), 16)));
    }
    return copy.textContent;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const element = document.getElementById(button.dataset.copy);
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(original(element));
      button.textContent = "Copied";
    } catch {
      // A page on plain HTTP may not write to the clipboard.
      getSelection().selectAllChildren(element);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });

  // The box that selects all rows.
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) {
      for (const box of $("input[name=event]")) box.checked = event.target.checked;
    }
  });

  const pause = document.getElementById("pause");
  const status = document.getElementById("live");
  if (!pause) return;
  pause.hidden = false;
  let paused = false;
  const show = (text) => { status.textContent = text; };

  // A list of events: the server sends the rows that changed.
  const list = document.querySelector("tbody[data-feed]");
  let source = null;
  const follow = () => {
    source = new EventSource(list.dataset.feed);
    source.onopen = () => show("Live");
    source.onerror = () => show(source.readyState === EventSource.CLOSED ? "Not live: reload the page" : "Connecting…");
    source.addEventListener("trouble", (event) => {
      const text = JSON.parse(event.data);
      show(text ? `Not live: ${text}` : "Live");
    });
    source.addEventListener("rows", (event) => {
      const { rows, gone } = JSON.parse(event.data);
      for (const id of gone) document.getElementById(`event-${id}`)?.remove();
      for (const { id, html } of rows.reverse()) place(id, html);
      for (const row of $("tr", list).slice(Number(list.dataset.limit))) row.remove();
      const empty = document.getElementById("empty");
      if (empty) empty.hidden = list.children.length > 0;
    });
  };
  const place = (id, html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    const row = template.content.firstElementChild;
    const before = document.getElementById(row.id);
    showTimes(row);
    if (before) {
      if (before.contains(document.activeElement)) return;
      before.replaceWith(row);
      return;
    }
    row.classList.add("new");
    const rows = $("tr", list);
    const next = rows.find((other) => Number(other.dataset.id) < id);
    if (!next && rows.length >= Number(list.dataset.limit)) return;
    list.insertBefore(row, next ?? null);
  };

  // Any other page: load the page again, and replace its live part.
  const reload = async () => {
    if (paused || document.hidden) return;
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of $("[data-live]")) {
        const fresh = page.getElementById(part.id);
        if (fresh && !part.contains(document.activeElement)) part.replaceWith(document.adoptNode(fresh));
      }
      showTimes();
      show("Live");
    } catch (error) {
      show(`Not live: ${error.message}`);
    }
  };

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) {
      source?.close();
      show("Paused");
    } else if (list) {
      follow();
    } else {
      reload();
    }
  });
  if (list) {
    follow();
    // A browser opens only a few connections to a server, so a hidden page closes its own.
    document.addEventListener("visibilitychange", () => {
      source.close();
      if (!document.hidden && !paused) follow();
    });
  } else {
    show("Live");
    setInterval(reload, 5000);
  }
})();
