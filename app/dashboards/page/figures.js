// Numbers and funnels: what needs no axes.
const Figures = (() => {
  const { make, svg } = Dom;
  const SPARK_FROM = 5;
  const VERDICT = "Verdict"; // the column in which a card's SQL says whether a change is more than chance
  const UNCERTAIN = new Set(["within noise", "too few to tell", "no loss seen"]);

  function pick(result, settings) {
    const wanted = settings["scalar.field"];
    return Series.column(result, wanted) || result.columns.find((one) => one.type === "number") || result.columns[0];
  }

  function scalar(box, card, result) {
    const column = pick(result, card.settings);
    const value = Series.values(result, column.name)[0];
    box.append(make("div.figure", {}, big(Format.formatter(card.settings, column)(value))));
  }

  function big(text) {
    return make("div.big", { style: { "--characters": Math.max(4, text.length) }, title: text }, text);
  }

  // The last value of the series, how it differs from what it is compared with, and whether that is good.
  function trend(box, card, result) {
    const { settings } = card;
    const column = pick(result, settings);
    const format = Format.formatter(settings, column);
    const all = Series.values(result, column.name);
    const dates = result.columns.find((one) => one.type === "date" || one.type === "datetime");
    const order = dates ? Series.values(result, dates.name).map((day, row) => [day, row]).sort() : all.map((_, row) => [row, row]);
    const rows = order.map(([, row]) => row);
    const now = all[rows.at(-1)];
    const comparisons = settings["scalar.comparisons"] || [{ type: "previousPeriod" }];
    const figure = make("div.figure", {}, big(format(now)));
    const verdict = Series.column(result, VERDICT) ? Series.values(result, VERDICT)[rows.at(-1)] : "";
    for (const comparison of comparisons.slice(0, 3)) {
      const [before, name] = comparedWith(comparison, result, all, rows, settings);
      const isRate = Format.columnSettings(settings, column.name).number_style === "percent";
      figure.append(change(now, before, name, format, settings["scalar.switch_positive_negative"] === true, { verdict, isRate }));
    }
    box.append(figure);
    if (rows.length >= SPARK_FROM) box.append(spark(rows.map((row) => all[row])));
  }

  function comparedWith(comparison, result, all, rows, settings) {
    if (comparison.type === "anotherColumn") {
      const value = Series.values(result, comparison.column)[rows.at(-1)];
      return [value, comparison.label || Format.title(settings, comparison.column)];
    }
    if (comparison.type === "staticNumber") return [comparison.value, comparison.label || "goal"];
    const back = comparison.type === "periodsAgo" ? comparison.value || 1 : 1;
    return [rows.length > back ? all[rows.at(-1 - back)] : null, back > 1 ? `${back} periods before` : "previous period"];
  }

  // A change that chance alone can explain has no colour, and says so.
  function change(now, before, name, format, isLessBetter, { verdict, isRate }) {
    if (before === null || before === undefined || now === null) {
      return make("div.change", {}, make("span.quiet", {}, `no ${name} to compare with`));
    }
    if (Number(before) === 0) return make("div.change", {}, make("span.quiet", {}, `${name}: ${format(before)}`));
    const difference = (Number(now) - Number(before)) / Math.abs(Number(before));
    const isSame = Math.abs(difference) < 0.0005;
    const isGood = difference > 0 !== isLessBetter;
    const mark = isSame ? "=" : difference > 0 ? "▲" : "▼";
    const percent = isRate // of a rate a percentage would read like points
      ? Format.number(Math.abs(Number(now) - Number(before)), { scale: 100, decimals: 2, suffix: " pp" })
      : Format.number(Math.abs(difference), { number_style: "percent", decimals: Math.abs(difference) >= 1 ? 0 : 1 });
    const isNoise = !isSame && UNCERTAIN.has(verdict);
    return make("div.change", {},
      make(`span.${isSame || isNoise ? "same" : isGood ? "good" : "bad"}`, {}, `${mark} ${isSame ? "no change" : percent}`),
      isNoise ? make("span.quiet", {}, verdict) : null,
      make("span.quiet", {}, `${name}: ${format(before)}`));
  }

  function spark(values) {
    const known = values.filter((value) => value !== null).map(Number);
    const low = Math.min(0, ...known);
    const span = Math.max(...known) - low || 1;
    const step = 100 / Math.max(1, values.length - 1);
    const points = values.map((value, index) => `${(index * step).toFixed(2)},${(30 - ((Number(value ?? low) - low) / span) * 28).toFixed(2)}`);
    return svg("svg.spark", { viewBox: "0 0 100 31", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }));
  }

  // One bar a step: how many came so far, of all and of the step before. The largest loss is bold, not red: to lose
  // most at some step is the nature of a funnel, and no alarm.
  function funnel(box, card, result) {
    const { settings } = card;
    const [[dimension], [metric]] = Series.dimensionsAndMetrics(
      { settings: { "graph.dimensions": [settings["funnel.dimension"]], "graph.metrics": [settings["funnel.metric"]] } }, result);
    const style = Format.columnSettings(settings, metric);
    const named = Format.formatter(settings, Series.column(result, dimension));
    const amounts = Series.values(result, metric).map((value) => Number(value ?? 0));
    let steps = Series.values(result, dimension).map((key, row) => ({ key: String(key), name: named(key), amount: amounts[row] }));
    const wanted = settings["funnel.rows"];
    if (wanted) {
      const chosen = wanted.filter((row) => row.enabled !== false).map((row) => ({ ...steps.find((step) => step.key === row.key), name: row.name }));
      steps = chosen.filter((step) => step.key !== undefined);
    }
    const first = steps[0]?.amount || 0;
    const rates = steps.map((step, index) => (index && steps[index - 1].amount ? step.amount / steps[index - 1].amount : null));
    const worst = rates.reduce((low, rate, index) => (rate !== null && (low < 0 || rate < rates[low]) ? index : low), -1);
    const percent = (share) => Format.number(share, { number_style: "percent", decimals: 1 });
    const counted = make("span.where-there-is-room", {}, `${Format.title(settings, metric)}, `);
    const headings = [[""], [""], [counted, "of all"], ["lost"]].map((words) => make("div", { role: "columnheader" }, ...words));
    const table = make("div.funnel", { role: "table", "aria-label": card.name }, make("div.step.step-head", { role: "row" }, ...headings));
    steps.forEach((step, index) => {
      const share = first ? step.amount / first : 0;
      table.append(make("div.step", { role: "row" },
        make("div.step-name", { role: "cell" }, step.name),
        make("div.step-bar", { role: "cell" }, make("div", { style: { width: `${Math.min(100, share * 100).toFixed(2)}%` } })),
        make("div.step-amount", { role: "cell" }, Format.number(step.amount, style), " ", make("span.quiet", {}, index ? percent(share) : "")),
        rates[index] === null ? make("div.step-rate", { role: "cell" })
          : make(`div.step-rate${index === worst ? ".is-most" : ""}`, { role: "cell", title: `${percent(1 - rates[index])} were lost since the step before` },
              `−${percent(1 - rates[index])}`)));
    });
    box.append(table);
  }

  return { scalar, trend, funnel, VERDICT, UNCERTAIN };
})();
