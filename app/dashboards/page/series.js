// What a chart draws, from a card's result: the places along its axis, and a series of values for each line or set of bars.
const Series = (() => {
  const PALETTE = [
    "#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#6cc5b0", "#ff8ab7", "#97bbf5", "#9c6b4e", "#9498a0",
  ];
  const DAY_MS = 86400000;
  const MOST_DAYS = 1100;
  const colours = new Map();

  // A category keeps its colour on every card: mobile is the same blue everywhere.
  function colourOf(name, taken) {
    if (!colours.has(name)) colours.set(name, PALETTE[colours.size % PALETTE.length]);
    const own = colours.get(name);
    const colour = taken.has(own) ? PALETTE.find((other) => !taken.has(other)) || own : own;
    taken.add(colour);
    return colour;
  }

  function column(result, name) {
    return result.columns.find((one) => one.name === name);
  }

  function dimensionsAndMetrics(card, result) {
    const { settings } = card;
    const known = (names) => (names || []).filter((name) => column(result, name));
    let dimensions = known(settings["graph.dimensions"]);
    let metrics = known(settings["graph.metrics"]);
    if (!dimensions.length) {
      dimensions = result.columns.slice(0, 1).map((one) => one.name);
    }
    if (!metrics.length) {
      metrics = result.columns.filter((one) => one.type === "number" && !dimensions.includes(one.name)).map((c) => c.name);
    }
    return [dimensions, metrics];
  }

  function values(result, name) {
    const index = result.columns.findIndex((one) => one.name === name);
    return result.rows.map((row) => row[index]);
  }

  // {x: {column, places}, series: [{key, name, values, display, colour, axis, style}]}
  function of(card, result) {
    const { settings } = card;
    const [[across, breakout], metrics] = dimensionsAndMetrics(card, result);
    const xs = values(result, across);
    const x = { column: column(result, across), places: places(xs, column(result, across)) };
    const at = new Map(x.places.map((place, index) => [place, index]));
    const taken = new Set();
    const every = breakout
      ? groups(values(result, breakout), values(result, metrics[0]), xs, at).map(([name, list]) => {
          const shown = Format.formatter(settings, column(result, breakout))(name);
          return one(card, String(name), shown, metrics[0], list, taken, () => colourOf(shown, taken));
        })
      : metrics.map((metric, index) => {
          const list = blank(at.size);
          values(result, metric).forEach((value, row) => (list[at.get(xs[row])] = value));
          return one(card, metric, Format.title(settings, metric), metric, list, taken, () => PALETTE[index % PALETTE.length]);
        });
    const known = every.filter((own) => own.values.some((value) => value !== null));
    const series = known.length ? known : every; // a series without any value needs no place in the legend
    if (settings["line.missing"] === "zero") series.forEach((own) => (own.values = own.values.map((v) => v ?? 0)));
    spreadOverAxes(card, series);
    return { x, series };
  }

  function one(card, key, name, metric, list, taken, ownColour) {
    const own = (card.settings.series_settings || {})[key] || {};
    const style = { ...Format.columnSettings(card.settings, metric) };
    const display = own.display || (card.display === "combo" ? "bar" : card.display);
    if (own.color) taken.add(own.color);
    return {
      key, name: own.title || name, metric, values: list, style, display, axis: own.axis, line: own["line.style"],
      colour: own.color || ownColour(),
    };
  }

  function blank(length) {
    return new Array(length).fill(null);
  }

  function groups(names, amounts, xs, at) {
    const found = new Map();
    names.forEach((name, row) => {
      if (!found.has(name)) found.set(name, blank(at.size));
      found.get(name)[at.get(xs[row])] = amounts[row];
    });
    return [...found];
  }

  // Days in order, those without a row included; other things in the order of the query.
  function places(xs, of) {
    const distinct = [...new Set(xs)];
    if (of.type !== "date" && of.type !== "datetime") return distinct;
    distinct.sort();
    if (of.type !== "date" || distinct.length < 3) return distinct;
    const at = distinct.map((day) => Date.parse(`${day}T00:00:00Z`));
    const steps = at.slice(1).map((moment, index) => moment - at[index]);
    if (Math.min(...steps) !== DAY_MS || (at.at(-1) - at[0]) / DAY_MS > MOST_DAYS) return distinct;
    const days = [];
    for (let moment = at[0]; moment <= at.at(-1); moment += DAY_MS) {
      days.push(new Date(moment).toISOString().slice(0, 10));
    }
    return days;
  }

  // Measures of another kind (a rate beside a count) get the axis on the right.
  function spreadOverAxes(card, series) {
    const kind = (own) => `${own.style.number_style || ""}`;
    const first = series[0] && kind(series[0]);
    const isSplit = card.settings["graph.y_axis.auto_split"] !== false;
    for (const own of series) own.axis ||= isSplit && kind(own) !== first ? "right" : "left";
    if (series.length && series.every((own) => own.axis === "right")) series.forEach((own) => (own.axis = "left"));
  }

  return { of, values, column, dimensionsAndMetrics, colourOf };
})();
