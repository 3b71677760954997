// The page: dashboards and their tabs, filters, and each card where Metabase would put it.
(() => {
  const { make } = Dom;
  const content = JSON.parse(document.getElementById("content").textContent);
  const byId = (id) => document.getElementById(id);
  const results = new Map(Object.entries(content.results));
  const drawn = [];
  const state = { dashboard: content.dashboards[0], tab: 0, filters: { ...content.chosen }, turn: 0 };
  const WAIT_MS = 250;
  const AGAIN_MS = 20_000;

  // ---- one card ----

  const NUMBERS = ["M2.5 3.5h11M2.5 8h11M2.5 12.5h11M6.5 3.5v9"];
  const ABOUT = ["M8 1.8a6.2 6.2 0 1 0 0 12.4a6.2 6.2 0 1 0 0-12.4", "M8 7.2v3.8M8 4.9v.1"];

  const SAVE = ["M8 2.5v7.5M4.8 7L8 10.2L11.2 7M2.8 13.2h10.4"];

  const KINDS = { scalar: "figure", smartscalar: "figure", funnel: "funnel", table: "table", heading: "plain", text: "plain" };
  const CHARTS = new Set(["line", "bar", "area", "combo", "row", "pie"]);

  function place(card) {
    const box = make(`section.card.is-${KINDS[card.display] || (CHARTS.has(card.display) ? "chart" : "table")}`, {
      "data-card": card.key, "data-display": card.display, "aria-label": card.name || null,
      style: { "--column": card.col + 1, "--across": card.size_x, "--at": card.row + 1, "--down": card.size_y },
    });
    if (card.display === "heading") box.append(make("h3", {}, card.text));
    else if (card.display === "text") box.append(Dom.prose(card.text));
    return box;
  }

  function icon(paths) {
    return Dom.svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, ...paths.map((d) => Dom.svg("path", { d })));
  }

  function head(card, box, body) {
    const row = make("div.card-head", {}, make("h3", {}, card.name));
    if (CHARTS.has(card.display) || card.display === "funnel") {
      const button = make("button.icon", { type: "button", "aria-pressed": "false", "aria-label": `Numbers of ${card.name}`, title: "Show the numbers" }, icon(NUMBERS));
      button.addEventListener("click", () => {
        const isOn = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(isOn));
        show(card, body, isOn ? "table" : card.display);
      });
      row.append(button);
    }
    const save = make("button.icon", { type: "button", "aria-label": `CSV of ${card.name}`, title: "Save as CSV", onclick: () => download(card) }, icon(SAVE));
    save.hidden = card.display === "scalar" || !results.get(card.key)?.rows?.length;
    row.append(save);
    if (card.description) {
      const about = make("div.about", { hidden: true }, card.description);
      const button = make("button.icon", { type: "button", "aria-expanded": "false", "aria-label": `About ${card.name}`, title: card.description }, icon(ABOUT));
      button.addEventListener("click", () => {
        about.hidden = !about.hidden;
        button.setAttribute("aria-expanded", String(!about.hidden));
      });
      row.append(button);
      box.append(about);
    }
    return row;
  }

  function download(card) {
    const address = URL.createObjectURL(new Blob(["\ufeff", Tables.csv(results.get(card.key))], { type: "text/csv" }));
    make("a", { href: address, download: `${card.name}.csv` }).click();
    URL.revokeObjectURL(address);
  }

  function show(card, body, display) {
    forget(body);
    body.replaceChildren();
    const result = results.get(card.key);
    if (!result) return;
    if (result.error) return void body.append(message("This could not be computed", result.error, "bad"));
    if (!result.rows.length || !result.columns.length) return void body.append(message("Nothing in these days", "Try a longer period or fewer filters"));
    try {
      const made = draw(display, body, { ...card, display }, result);
      if (made) drawn.push({ body, ...made });
    } catch (error) {
      forget(body);
      body.replaceChildren(message("This could not be drawn", String(error.message), "bad"));
    }
  }

  function draw(display, body, card, result) {
    if (CHARTS.has(display)) return Charts.draw(body, card, result);
    if (display === "scalar") return Figures.scalar(body, card, result);
    if (display === "smartscalar") return Figures.trend(body, card, result);
    if (display === "funnel") return Figures.funnel(body, card, result);
    return Tables.draw(body, card, result);
  }

  function message(title, detail, ...classes) {
    return make(["div", "message", ...classes].join("."), { "data-state": classes.includes("bad") ? "error" : "empty" },
      make("div", {}, title), make("div.small", {}, detail));
  }

  function forget(body) {
    for (let index = drawn.length - 1; index >= 0; index -= 1) {
      if (body && drawn[index].body !== body) continue;
      drawn[index].dispose();
      drawn.splice(index, 1);
    }
  }

  // ---- a tab of a dashboard ----

  async function render() {
    state.turn += 1;
    const { turn } = state;
    const grid = byId("grid");
    if (state.dashboard !== content.dashboards[0] || state.tab !== 0) showInsights([]);
    const cards = state.dashboard.tabs[state.tab].cards;
    byId("name").textContent = state.dashboard.name;
    byId("description").textContent = state.dashboard.description;
    document.title = `${state.dashboard.name} – Carat`;
    if (content.until_built) {
      showInsights([]);
      grid.replaceChildren(make("section.whole", {}, message("No sessions are stored yet", content.until_built)));
      grid.dataset.shown = `${state.dashboard.slug}/${state.tab}/${turn}`;
      return;
    }
    if (content.is_live && !(await fetched(turn))) return;
    forget();
    grid.replaceChildren();
    const bodies = cards.map((card) => {
      const box = place(card);
      grid.append(box);
      if (card.text !== undefined) return null;
      const body = make("div.card-body");
      box.append(head(card, box, body), body);
      return body;
    });
    fillRows(cards, [...grid.children]);
    let isFirst = true;
    cards.forEach((card, index) => {
      if (!bodies[index]) return;
      show(card, bodies[index], card.display);
      if (isFirst && card.display !== "table") performance.mark("carat-first-chart");
      isFirst &&= card.display === "table";
    });
    performance.mark("carat-tab-drawn");
    tellInsights(turn);
    grid.dataset.shown = `${state.dashboard.slug}/${state.tab}/${turn}`;
  }

  // What matters, in words, on top of the first tab: known in a page that was written, asked for after the numbers else.
  async function tellInsights(turn) {
    const isFirst = state.dashboard === content.dashboards[0] && state.tab === 0;
    if (!isFirst || !content.is_live) return void showInsights(isFirst ? content.insights : []);
    try {
      const answer = await fetch(`api/insights?${new URLSearchParams(chosenFilters())}`);
      if (answer.ok && turn === state.turn) showInsights(await answer.json());
    } catch {
      if (turn === state.turn) showInsights([]); // the cards say what is wrong
    }
  }

  function showInsights(insights) {
    const box = byId("insights");
    box.hidden = !insights.length;
    box.replaceChildren(make("div.card-head", {}, make("h3", {}, "What matters")), make("ul", {}, ...insights.map((one) =>
      make("li", { "data-kind": one.kind }, `${one.text} `, make("a", { href: address(one.dashboard, one.tab), "aria-label": `Card: ${one.card}` }, "show →")))));
  }

  // On a phone numbers stand in twos: one without a neighbour takes the whole row.
  function fillRows(cards, boxes) {
    let run = 0;
    cards.forEach((card, index) => {
      run = KINDS[card.display] === "figure" ? run + 1 : 0;
      const isEnd = KINDS[cards[index + 1]?.display] !== "figure";
      boxes[index].classList.toggle("is-last", run % 2 === 1 && isEnd);
    });
  }

  async function fetched(turn) {
    const status = byId("status");
    const query = new URLSearchParams({ dashboard: state.dashboard.slug, tab: state.tab });
    for (const slug of state.dashboard.filters) if (state.filters[slug]) query.set(slug, state.filters[slug]);
    byId("grid").classList.add("is-waiting");
    try {
      const answer = await fetch(`api/cards?${query}`, { headers: { accept: "application/json" } });
      const told = await answer.json();
      if (turn !== state.turn) return false;
      if (!answer.ok) throw new Error(told.error);
      for (const [key, result] of Object.entries(told.results)) results.set(key, result);
      byId("made").textContent = told.made;
      status.hidden = true;
      return true;
    } catch (error) {
      if (turn === state.turn) {
        status.textContent = error.message;
        status.className = "bad";
        status.hidden = false;
      }
      return false;
    } finally {
      if (turn === state.turn) byId("grid").classList.remove("is-waiting");
    }
  }

  // ---- filters ----

  function filters() {
    const form = byId("filters");
    form.replaceChildren(...content.filters.flatMap((filter) => {
      const controls = content.is_live ? control(filter) : [chosen(filter)];
      for (const one of controls) one.dataset.of = filter.slug;
      return controls;
    }));
  }

  // A filter that changes nothing on this dashboard is not offered.
  function offerFilters() {
    for (const one of byId("filters").children) one.hidden = !state.dashboard.filters.includes(one.dataset.of);
  }

  function chosen(filter) {
    return make("span.choice", { "data-filter": filter.slug }, make("span.quiet", {}, `${filter.name}: `), filter.said);
  }

  function control(filter) {
    if (filter.kind !== "date") {
      const select = make("select", { name: filter.slug, onchange: () => choose(filter.slug, select.value) },
        make("option", { value: "" }, "all"), ...filter.options.map((option) => make("option", { value: option }, option)));
      select.value = state.filters[filter.slug] || "";
      return [make("label", {}, filter.name, select)];
    }
    const [first, last] = [0, 1].map((side) => make("input", {
      type: "date", name: `${filter.slug}-${side ? "to" : "from"}`, "aria-label": side ? "last day" : "first day", min: filter.first, max: filter.last,
    }));
    const put = (from, to) => {
      first.value = from;
      last.value = to;
    };
    put(...(state.filters[filter.slug] || filter.default || "~").split("~"));
    for (const input of [first, last]) {
      input.addEventListener("change", () => {
        if (!first.value || !last.value) return;
        if (first.value > last.value) put(...(input === first ? [first.value, first.value] : [last.value, last.value]));
        choose(filter.slug, `${first.value}~${last.value}`);
      });
    }
    const quick = filter.presets.map(([label, value]) => make("button.quick", {
      type: "button", onclick: () => {
        put(...value.split("~"));
        choose(filter.slug, value);
      },
    }, label));
    return [make("label", {}, filter.name, first, "–", last), ...quick];
  }

  let waiting = 0;
  function choose(slug, value) {
    state.filters[slug] = value;
    clearTimeout(waiting);
    waiting = setTimeout(() => go(state.dashboard, state.tab), WAIT_MS);
  }

  // ---- moving about ----

  function tablist(list, names, selected, onChoose) {
    list.replaceChildren(...names.map((name, index) => make("button", {
      type: "button", role: "tab", "aria-selected": String(index === selected), tabindex: index === selected ? "0" : "-1", onclick: () => onChoose(index),
    }, name)));
    const current = list.children[selected];
    list.scrollLeft = Math.max(0, (current?.offsetLeft || 0) - list.offsetLeft - 60);
  }

  function arrows(list) {
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const tabs = [...list.children];
      const at = tabs.indexOf(document.activeElement);
      if (!step || at < 0) return;
      const next = (at + step + tabs.length) % tabs.length;
      tabs[next].click();
      list.children[next].focus();
    });
  }

  function navigation() {
    const { dashboards } = content;
    tablist(byId("dashboards"), dashboards.map((one) => one.name), dashboards.indexOf(state.dashboard), (index) => go(dashboards[index], 0));
    const { tabs } = state.dashboard;
    byId("tabs").hidden = tabs.length < 2;
    tablist(byId("tabs"), tabs.map((tab) => tab.name), state.tab, (index) => go(state.dashboard, index));
  }

  function address(slug, tab) {
    const chosen = content.is_live ? chosenFilters() : [];
    return `#${slug}/${tab}${chosen.length ? `?${new URLSearchParams(chosen)}` : ""}`;
  }

  function go(dashboard, tab) {
    const hash = address(dashboard.slug, tab);
    if (location.hash === hash) follow();
    else location.hash = hash;
  }

  // The address says what is shown, and under which filters: a link or the back button leads there.
  function follow() {
    const [place, query = ""] = location.hash.slice(1).split("?");
    const [slug, tab] = place.split("/");
    state.dashboard = content.dashboards.find((one) => one.slug === slug) || content.dashboards[0];
    state.tab = Math.min(Math.max(0, Number.parseInt(tab, 10) || 0), state.dashboard.tabs.length - 1);
    if (content.is_live) read(new URLSearchParams(query));
    navigation();
    offerFilters();
    return render();
  }

  // The filters that have a value, in their order.
  function chosenFilters() {
    return content.filters.map(({ slug }) => [slug, state.filters[slug]]).filter(([, value]) => value);
  }

  function read(query) {
    const known = JSON.stringify(chosenFilters());
    state.filters = Object.fromEntries(content.filters.map(({ slug }) => [slug, query.get(slug) || ""]));
    if (JSON.stringify(chosenFilters()) !== known) filters();
  }

  function theme() {
    const preferred = matchMedia("(prefers-color-scheme: dark)");
    let own = null;
    const apply = () => {
      document.documentElement.dataset.theme = own || (preferred.matches ? "dark" : "light");
      for (const chart of drawn) chart.redraw();
    };
    preferred.addEventListener("change", apply);
    byId("theme").addEventListener("click", () => {
      own = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      apply();
    });
    apply();
  }

  // Before there are sessions: once there are, the page is loaded again, with the values of its filters.
  function lookAgain() {
    setTimeout(async () => {
      const answer = await fetch("./").catch(() => null);
      if (answer?.ok) location.reload();
      else lookAgain();
    }, AGAIN_MS);
  }

  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => drawn.forEach((chart) => chart.redraw()));
  });

  theme();
  byId("made").textContent = content.made;
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  filters();
  arrows(byId("dashboards"));
  arrows(byId("tabs"));
  addEventListener("hashchange", follow);
  follow();
  if (content.is_live && content.until_built) lookAgain();
})();
