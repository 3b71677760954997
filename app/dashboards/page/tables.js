// Tables: sorted by a click on a heading, numbers to the right, small bars and heat colours where the card asks for them.
const Tables = (() => {
  const { make } = Dom;
  const SHOWN_ROWS = 300;
  const LONG_TEXT = 22;
  const LONG_WORD = /\S{29}/;

  function visibleColumns(settings, result) {
    const wanted = settings["table.columns"];
    if (!wanted) return result.columns;
    const listed = wanted.filter((entry) => entry.enabled !== false).map((entry) => Series.column(result, entry.name)).filter(Boolean);
    const known = new Set(wanted.map((entry) => entry.name));
    return [...listed, ...result.columns.filter((column) => !known.has(column.name))];
  }

  function draw(box, card, source) {
    const pivoted = card.settings["table.pivot"] ? pivot(card, source) : null;
    const result = pivoted || source;
    const settings = pivoted ? pivoted.settings : card.settings;
    const columns = visibleColumns(settings, result);
    const at = (column) => result.columns.indexOf(column);
    const formats = new Map(columns.map((column) => [column, Format.formatter(settings, column)]));
    const paints = columns.map((column) => painter(settings, result, column));
    const verdict = result.columns.findIndex((column) => column.name === Figures.VERDICT);
    const isNoise = (row) => verdict >= 0 && Figures.UNCERTAIN.has(row[verdict]);
    const order = { column: null, isDown: false };
    const body = make("tbody");
    const heads = columns.map((column) => {
      const button = make("button", { type: "button", onclick: () => sortBy(column) }, Format.title(settings, column.name));
      const kind = column.type === "number" ? ".number" : isLong(result, column) ? ".is-long" : "";
      return make(`th${kind}`, { scope: "col" }, button);
    });

    function sortBy(column) {
      order.isDown = order.column === column ? !order.isDown : column.type === "number";
      order.column = column;
      heads.forEach((head, index) => head.setAttribute("aria-sort", columns[index] !== column ? "none" : order.isDown ? "descending" : "ascending"));
      fill();
    }

    function fill() {
      const rows = [...result.rows];
      if (order.column) {
        const index = at(order.column);
        rows.sort((a, b) => compare(a[index], b[index]) * (order.isDown ? -1 : 1));
      }
      body.replaceChildren(...rows.slice(0, SHOWN_ROWS).map((row) => make(isNoise(row) ? "tr.is-noise" : "tr", {}, ...columns.map((column, index) =>
        cell(column, row[at(column)], formats.get(column), paints[index], row)))));
    }

    fill();
    const table = make(pivoted ? "table.rows.is-grid" : "table.rows", { style: { "--pad": "4px" } }, make("thead", {}, make("tr", {}, ...heads)), body);
    box.append(make("div.scroll", { tabindex: "0", role: "region", "aria-label": card.name }, table));
    fit(box.lastChild, table, result.rows.length);
    const left = result.rows.length - SHOWN_ROWS;
    if (left > 0 || source.is_cut) box.append(make("div.note", {}, `the first ${Math.min(SHOWN_ROWS, result.rows.length)} rows`));
  }

  // Whether a column holds sentences and names rather than words.
  function isLong(result, column) {
    return column.type === "text" && Series.values(result, column.name).some((value) => String(value ?? "").length > LONG_TEXT);
  }

  // Rows take the room that their card has, within reason.
  function fit(holder, table, rows) {
    const spare = (holder.clientHeight - table.offsetHeight - 2) / (rows + 1) / 2;
    if (spare > 0) table.style.setProperty("--pad", `${Math.min(9, 4 + Math.floor(spare))}px`);
  }

  function cell(column, value, format, paint, row) {
    const text = format(value);
    const element = make(`td${column.type === "number" ? ".number" : column.type.startsWith("date") ? ".day" : ""}`, text.length > 40 ? { title: text } : {});
    const { background, bar } = paint(value, row);
    if (background) element.style.background = background;
    if (Figures.UNCERTAIN.has(value)) element.classList.add("quiet", "is-verdict");
    if (column.type === "text" && LONG_WORD.test(text)) element.classList.add("is-broken");
    if (bar !== undefined) {
      element.append(make("div.mini", {}, make("div", { style: { width: `${bar}%` } })), make("span", {}, text));
      element.classList.add("has-bar");
    } else element.append(text);
    return element;
  }

  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  // How a column's cells are painted: small bars, heat colours between two ends, or a colour where a condition holds.
  function painter(settings, result, column) {
    const amounts = column.type === "number" ? Series.values(result, column.name).filter((value) => value !== null).map(Number) : [];
    const isBar = Format.columnSettings(settings, column.name).show_mini_bar && amounts.length;
    const most = Math.max(0, ...amounts);
    const rules = (settings["table.column_formatting"] || []).filter((rule) => (rule.columns || []).includes(column.name) || rule.is_everywhere);
    return (value) => {
      const painted = {};
      if (isBar) painted.bar = most ? Math.max(0, (Number(value ?? 0) / most) * 100).toFixed(1) : 0;
      for (const rule of rules) {
        if (rule.type === "range" && value !== null) painted.background = heat(rule, amounts, Number(value));
        else if (rule.type === "single" && holds(rule, value)) painted.background = tint(rule.color, 0.5);
      }
      return painted;
    };
  }

  function heat(rule, amounts, value) {
    const low = rule.min_type === "custom" ? rule.min_value : Math.min(...amounts);
    const high = rule.max_type === "custom" ? rule.max_value : Math.max(...amounts);
    if (!(high > low)) return "";
    const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
    const colours = rule.colors || ["white", "#509ee3"];
    if (colours.length === 2) {
      const isFromPlain = isPlain(colours[0]);
      return tint(isFromPlain ? colours[1] : colours[0], isFromPlain ? share : 1 - share);
    }
    return share < 0.5 ? tint(colours[0], 1 - share * 2) : tint(colours.at(-1), share * 2 - 1);
  }

  function isPlain(colour) {
    return ["white", "#fff", "#ffffff", "transparent"].includes(String(colour).toLowerCase());
  }

  // --heat keeps the words on the strongest colour readable, in light and in dark.
  function tint(colour, share) {
    return CSS.supports("color", colour) ? `color-mix(in srgb, ${colour} calc(var(--heat) * ${(share * 100).toFixed(1)}%), transparent)` : "";
  }

  function holds(rule, value) {
    const [a, b] = typeof value === "number" ? [value, Number(rule.value)] : [String(value ?? ""), String(rule.value ?? "")];
    const tests = {
      "=": a === b, "!=": a !== b, "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b,
      "is-null": value === null, "not-null": value !== null,
      contains: String(a).includes(String(b)), "starts-with": String(a).startsWith(String(b)), "ends-with": String(a).endsWith(String(b)),
    };
    return (value !== null || rule.operator === "is-null") && tests[rule.operator] === true;
  }

  // Rows of (row, column, amount) as a grid: one row a row, one column a column.
  function pivot(card, result) {
    const { settings } = card;
    const across = settings["table.pivot_column"] || result.columns[1]?.name;
    const amount = settings["table.cell_column"] || result.columns.find((column) => column.type === "number" && column.name !== across)?.name;
    const side = result.columns.find((column) => column.name !== across && column.name !== amount);
    if (!side || !Series.column(result, across) || !Series.column(result, amount)) return null;
    const [tops, sides, amounts] = [across, side.name, amount].map((name) => Series.values(result, name));
    const formatTop = Format.formatter(settings, Series.column(result, across));
    const headings = [...new Set(tops)];
    const rows = new Map();
    sides.forEach((key, index) => {
      if (!rows.has(key)) rows.set(key, [key, ...headings.map(() => null)]);
      rows.get(key)[1 + headings.indexOf(tops[index])] = amounts[index];
    });
    const style = Format.columnSettings(settings, amount);
    const names = headings.map(formatTop);
    const perColumn = Object.fromEntries(names.map((name) => [JSON.stringify(["name", name]), { ...style, column_title: name }]));
    const rules = (settings["table.column_formatting"] || []).map((rule) => ((rule.columns || []).includes(amount) ? wholeGrid(rule, amounts) : rule));
    return {
      columns: [side, ...names.map((name) => ({ name, type: "number" }))], rows: [...rows.values()],
      settings: { ...settings, "table.columns": undefined, "table.column_formatting": rules, column_settings: { ...settings.column_settings, ...perColumn } },
    };
  }

  // One scale for the whole grid, not one a column.
  function wholeGrid(rule, amounts) {
    const known = amounts.filter((value) => value !== null).map(Number);
    const ends = { min_type: "custom", max_type: "custom", min_value: Math.min(...known), max_value: Math.max(...known) };
    return { ...ends, ...(rule.min_type === "custom" ? { min_value: rule.min_value } : {}), ...(rule.max_type === "custom" ? { max_value: rule.max_value } : {}),
      ...{ type: rule.type, colors: rule.colors, operator: rule.operator, value: rule.value, color: rule.color }, is_everywhere: true };
  }

  // What a card's query gave, as CSV. A text that a spreadsheet would take for a formula begins with an apostrophe.
  function csv(result) {
    const text = (value) => {
      const plain = value === null || value === undefined ? "" : String(value);
      const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(plain) ? `'${plain}` : plain;
      return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return [result.columns.map((column) => column.name), ...result.rows].map((row) => row.map(text).join(",")).join("\r\n");
  }

  return { draw, csv };
})();
