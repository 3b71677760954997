// Lines, bars, areas, rows and pies, drawn by ECharts as SVG.
const Charts = (() => {
  const { make } = Dom;
  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";
  const ROW_PX = 26;
  const MOST_SLICES = 8;
  const FULL_TO = 1e6; // numbers beside rows have the room to be written in full
  let measuring = null;

  function ink(box) {
    const style = getComputedStyle(box);
    const of = (name) => style.getPropertyValue(name).trim();
    return { text: of("--ink"), quiet: of("--quiet"), line: of("--line"), paper: of("--paper"), wash: of("--wash") };
  }

  function width(text, size = 11) {
    measuring ||= document.createElement("canvas").getContext("2d");
    measuring.font = `${size}px ${FONT}`;
    return measuring.measureText(text).width;
  }

  // Draws the card's chart into the box, its legend above it; what is returned redraws it.
  function draw(box, card, result) {
    if (card.display === "pie") return drawPie(box, card, result);
    const shown = Series.of(card, result);
    const hidden = new Set();
    const holder = make("div.plot", { role: "img", "aria-label": card.name });
    const legend = shown.series.length > 1 ? make("div.legend") : null;
    const inner = make("div.plot-inner");
    holder.append(inner);
    box.append(...(legend ? [legend, holder] : [holder]));
    if (legend) {
      for (const own of shown.series) legend.append(legendButton(own, hidden, () => redraw()));
    }
    const isRow = card.display === "row";
    const stretch = () => {
      if (isRow) inner.style.height = `${heightOfRows(holder.clientHeight, shown, card)}px`;
    };
    stretch();
    const chart = echarts.init(inner, null, { renderer: "svg" });
    const redraw = () => {
      stretch();
      chart.resize({ animation: { duration: 0 } });
      const series = shown.series.filter((own) => !hidden.has(own.key));
      const size = { width: chart.getWidth(), height: chart.getHeight() };
      chart.setOption(isRow ? rows(card, shown, series, size, ink(box)) : upright(card, shown, series, size, ink(box)), true);
    };
    redraw();
    return { redraw, dispose: () => chart.dispose() };
  }

  // Many rows scroll within their card, few stand at its top.
  function heightOfRows(room, shown, card) {
    const lanes = isStacked(card) ? 1 : shown.series.length;
    const [least, most] = [ROW_PX * (lanes === 1 ? 1 : 0.7 * lanes), ROW_PX * 2 * lanes];
    const rows = shown.x.places.length;
    return Math.round(Math.min(Math.max(room - 2, rows * least + 30), rows * most + 30));
  }

  function legendButton(own, hidden, redraw) {
    const key = make("span.key", { style: { background: own.colour } });
    const button = make("button.legend-entry", { type: "button", "aria-pressed": "true" }, key, own.name);
    button.addEventListener("click", () => {
      if (!hidden.delete(own.key)) hidden.add(own.key);
      button.setAttribute("aria-pressed", String(!hidden.has(own.key)));
      redraw();
    });
    return button;
  }

  function isStacked(card) {
    return Boolean(card.settings["stackable.stack_type"]);
  }

  function base(look) {
    return {
      animation: false, textStyle: { fontFamily: FONT, fontSize: 11, color: look.quiet },
      aria: { enabled: false },
      tooltip: {
        trigger: "axis", confine: true, renderMode: "html", transitionDuration: 0, backgroundColor: look.paper,
        borderColor: look.line, padding: 8, textStyle: { color: look.text, fontSize: 12, fontFamily: FONT },
        extraCssText: "box-shadow:0 2px 10px rgba(0,0,0,.18);max-width:min(22rem,80vw);white-space:normal",
        axisPointer: { type: "shadow", shadowStyle: { color: look.wash }, lineStyle: { color: look.quiet } },
      },
    };
  }

  function share(list, index) {
    const whole = list.reduce((sum, own) => sum + Math.abs(own.values[index] ?? 0), 0);
    return (own) => (own.values[index] === null || !whole ? null : own.values[index] / whole);
  }

  // The values as drawn: shares of each place's whole where bars are stacked to 100 %.
  function drawn(card, series) {
    if (card.settings["stackable.stack_type"] !== "normalized") return series;
    return series.map((own) => ({
      ...own, style: { number_style: "percent" }, full: own, values: own.values.map((_, index) => share(series, index)(own)),
    }));
  }

  function label(column, settings) {
    if (column.type === "date") return (value) => Format.day(value, { day: "numeric", month: "short" });
    return Format.formatter(settings, column);
  }

  function tip(card, shown, series) {
    const across = Format.formatter(card.settings, shown.x.column);
    const long = { weekday: "short", day: "numeric", month: "short", year: "numeric" };
    return (points) => {
      const list = Array.isArray(points) ? points : [points];
      const index = list[0].dataIndex;
      const place = shown.x.places[index];
      const head = shown.x.column.type === "date" ? Format.day(place, long) : across(place);
      const table = make("table.tip");
      for (const own of series) {
        const { style, values } = own.full || own;
        const value = values[index];
        const extra = own.full && value !== null ? ` (${Format.number(own.values[index], own.style)})` : "";
        table.append(make("tr", {},
          make("td", {}, make("span.key", { style: { background: own.colour } })), make("td", {}, own.name),
          make("td.number", {}, Format.number(value, style) + extra)));
      }
      return make("div", {}, make("div.tip-head", {}, head), table);
    };
  }

  function mark(own, series, card, look, isRow) {
    const isLine = own.display === "line" || own.display === "area";
    const many = own.values.length > 45;
    const stacked = isStacked(card) || (own.display === "area" && series.length > 1 && card.display === "area");
    const shows = card.settings["graph.show_values"] && !many;
    return {
      type: isLine ? "line" : "bar", name: own.name, data: own.values, color: own.colour,
      [isRow ? "xAxisIndex" : "yAxisIndex"]: !isRow && own.axis === "right" && series.some((one) => one.axis === "left") ? 1 : 0,
      stack: stacked ? `${own.axis}-${isLine}` : undefined, barMaxWidth: isRow ? 18 : 56, barCategoryGap: isRow ? "28%" : "22%", barGap: "8%",
      itemStyle: isLine ? {} : { borderRadius: stacked ? 0 : isRow ? [0, 3, 3, 0] : [3, 3, 0, 0] },
      lineStyle: { width: 2, type: own.line || "solid" }, symbol: "circle", symbolSize: own.values.length === 1 ? 8 : 5, showSymbol: own.values.length <= 14,
      connectNulls: card.settings["line.missing"] !== "none",
      areaStyle: own.display === "area" ? { opacity: stacked ? 0.55 : 0.18 } : undefined,
      emphasis: { disabled: true }, z: isLine ? 3 : 2,
      label: {
        show: Boolean(shows), position: isRow ? "right" : stacked ? "inside" : "top", color: stacked ? "#fff" : look.text, fontSize: 11,
        formatter: ({ value }) => (value === null || value === undefined ? "" : Format.number(value, own.style, { compact: true, compactFrom: isRow ? FULL_TO : undefined, ...labelDecimals(own) })),
      },
      labelLayout: { hideOverlap: true },
    };
  }

  function labelDecimals(own) {
    if (own.style.decimals !== undefined) return { decimals: own.style.decimals };
    return own.style.number_style === "percent" ? { decimals: 1 } : {};
  }

  function highest(series, stacked) {
    if (!stacked) return Math.max(0, ...series.flatMap((own) => own.values.map((value) => Math.abs(value ?? 0))));
    const sums = series[0]?.values.map((_, index) => series.reduce((sum, own) => sum + Math.abs(own.values[index] ?? 0), 0)) || [];
    return Math.max(0, ...sums);
  }

  function valueAxis(card, series, side, look) {
    const own = series.filter((one) => one.axis === side);
    const { settings } = card;
    const isNormal = settings["stackable.stack_type"] === "normalized";
    const top = highest(own, isStacked(card) || card.display === "area");
    const style = own[0]?.style || {};
    const titleText = settings["graph.y_axis.labels_enabled"] === false ? "" : settings["graph.y_axis.title_text"] || "";
    const free = settings["graph.y_axis.auto_range"] === false;
    const isCount = !style.number_style && own.every((one) => one.values.every((value) => Number.isInteger(value ?? 0)));
    return {
      type: settings["graph.y_axis.scale"] === "log" ? "log" : "value", position: side, show: settings["graph.y_axis.axis_enabled"] !== false,
      min: free && side === "left" ? settings["graph.y_axis.min"] : undefined,
      max: isNormal ? 1 : free && side === "left" ? settings["graph.y_axis.max"] : undefined,
      minInterval: isCount ? 1 : undefined, interval: isNormal ? 0.25 : undefined, splitNumber: 4, name: side === "left" ? titleText : "",
      nameTextStyle: { color: look.quiet, align: "left", padding: [0, 0, 2, 0] }, nameGap: 10,
      axisLabel: { color: look.quiet, formatter: Format.axisFormatter(style, top), hideOverlap: true },
      axisLine: { show: false }, axisTick: { show: false },
      splitLine: { show: side === "left" || own.length === series.length, lineStyle: { color: look.line } },
    };
  }

  // Labels along the bottom: level where they fit, every n-th of days and numbers, slanted or cut else.
  function placeLabels(card, shown, size) {
    const texts = shown.x.places.map(label(shown.x.column, card.settings));
    const room = Math.max(60, size.width - 70) / Math.max(1, texts.length);
    const widest = Math.max(0, ...texts.map((text) => width(text)));
    const isOrdered = ["date", "datetime", "number"].includes(shown.x.column.type);
    if (isOrdered) {
      const step = Math.max(1, Math.ceil((widest + 14) / room));
      return { texts, axisLabel: { interval: (index) => index % step === 0, rotate: 0 }, room: 24 };
    }
    if (widest + 8 <= room) return { texts, axisLabel: { interval: 0, rotate: 0 }, room: 22 };
    const words = Math.max(0, ...texts.flatMap((text) => text.split(" ")).map((word) => width(word)));
    if (words + 8 <= room && widest <= room * 1.9) {
      return { texts, axisLabel: { interval: 0, rotate: 0, width: room - 6, overflow: "break", lineHeight: 13 }, room: 34 };
    }
    const step = Math.max(1, Math.ceil(16 / room));
    const longest = Math.min(widest, size.height * 0.42, 110);
    return {
      texts, axisLabel: { interval: (index) => index % step === 0, rotate: 40, width: longest, overflow: "truncate" },
      room: longest * 0.68 + 16,
    };
  }

  function upright(card, shown, every, size, look) {
    const series = drawn(card, every);
    const labels = placeLabels(card, shown, size);
    const sides = ["left", "right"].filter((side) => series.some((own) => own.axis === side));
    const axes = sides.map((side) => valueAxis(card, series, side, look));
    const gutter = (side) => {
      const axis = axes[sides.indexOf(side)];
      if (!axis || !axis.show) return side === "left" ? 8 : 14;
      const own = series.filter((one) => one.axis === side);
      const top = highest(own, isStacked(card) || card.display === "area") * 1.2;
      return Math.max(...[top, top / 4, top / 2].map((value) => width(axis.axisLabel.formatter(value)))) + 16;
    };
    const hasTitle = axes.some((axis) => axis.name);
    const shows = card.settings["graph.show_values"];
    const titleOfX = card.settings["graph.x_axis.labels_enabled"] === false ? "" : card.settings["graph.x_axis.title_text"] || "";
    const marks = series.map((own) => mark(own, series, card, look, false));
    addGoal(card, marks, look);
    return {
      ...base(look),
      grid: {
        left: gutter("left"), right: Math.max(sides.length > 1 ? gutter("right") : 14, 14), containLabel: false,
        top: hasTitle ? 26 : shows ? 20 : 10, bottom: labels.room + (titleOfX ? 18 : 4),
      },
      xAxis: {
        type: "category", data: labels.texts, boundaryGap: marks.some((one) => one.type === "bar") || shown.x.places.length === 1,
        show: card.settings["graph.x_axis.axis_enabled"] !== false,
        name: titleOfX, nameLocation: "middle", nameGap: labels.room + 2, nameTextStyle: { color: look.quiet },
        axisLabel: { color: look.quiet, margin: 10, ...labels.axisLabel },
        axisLine: { lineStyle: { color: look.line } }, axisTick: { show: false },
      },
      yAxis: axes.length ? axes : [valueAxis(card, series, "left", look)],
      series: marks,
      tooltip: { ...base(look).tooltip, formatter: tip(card, shown, series) },
    };
  }

  function rows(card, shown, every, size, look) {
    const series = drawn(card, every);
    const texts = shown.x.places.map(label(shown.x.column, card.settings));
    const longest = Math.min(Math.max(0, ...texts.map((text) => width(text, 12))) + 2, size.width * 0.42);
    const style = series[0]?.style || {};
    const top = highest(series, isStacked(card));
    const shows = card.settings["graph.show_values"] !== false && !isStacked(card);
    const valueRoom = shows ? width(Format.number(top, style, { compact: true, compactFrom: FULL_TO, ...(series[0] ? labelDecimals(series[0]) : {}) })) + 14 : 14;
    const marks = series.map((own) => mark({ ...own, display: "bar" }, series, { ...card, settings: { ...card.settings, "graph.show_values": shows } }, look, true));
    for (const one of marks) one.labelLayout = {};
    return {
      ...base(look),
      grid: { left: longest + 14, right: valueRoom, top: 4, bottom: shows ? 6 : 24 },
      yAxis: {
        type: "category", inverse: true, data: texts, axisTick: { show: false }, axisLine: { lineStyle: { color: look.line } },
        axisLabel: { color: look.text, fontSize: 12, width: longest, overflow: "truncate", interval: 0 },
      },
      xAxis: {
        type: "value", max: card.settings["stackable.stack_type"] === "normalized" ? 1 : shows ? "dataMax" : undefined, splitNumber: 3, interval: card.settings["stackable.stack_type"] === "normalized" ? 0.25 : undefined,
        axisLabel: { show: !shows, color: look.quiet, formatter: Format.axisFormatter(style, top), hideOverlap: true },
        splitLine: { show: !shows, lineStyle: { color: look.line } },
      },
      series: marks,
      tooltip: { ...base(look).tooltip, formatter: tip(card, shown, series) },
    };
  }

  function addGoal(card, marks, look) {
    const { settings } = card;
    if (!settings["graph.show_goal"] || !marks.length) return;
    marks[0].markLine = {
      silent: true, symbol: "none", lineStyle: { color: look.quiet, type: "dashed" },
      label: { formatter: () => settings["graph.goal_label"] || "Goal", position: "insideStartTop", color: look.text, backgroundColor: look.paper, padding: [1, 4] },
      data: [{ yAxis: settings["graph.goal_value"] }],
    };
  }

  // A ring, with a legend that says every share; the smallest slices are one.
  function drawPie(box, card, result) {
    const { settings } = card;
    const [[dimension], [metric]] = Series.dimensionsAndMetrics(
      { settings: { "graph.dimensions": [settings["pie.dimension"]].flat(), "graph.metrics": [settings["pie.metric"]] } }, result);
    const name = Format.formatter(settings, Series.column(result, dimension));
    const style = Format.columnSettings(settings, metric);
    const amounts = Series.values(result, metric);
    const slices = Series.values(result, dimension).map((key, row) => ({ name: name(key), value: Number(amounts[row] ?? 0) }));
    const kept = slices.filter((slice) => slice.value > 0).sort((a, b) => b.value - a.value);
    if (kept.length > MOST_SLICES) {
      const rest = kept.splice(MOST_SLICES - 1);
      kept.push({ name: `${rest.length} others`, value: rest.reduce((sum, slice) => sum + slice.value, 0) });
    }
    const taken = new Set();
    for (const slice of kept) slice.colour = Series.colourOf(slice.name, taken);
    const whole = kept.reduce((sum, slice) => sum + slice.value, 0);
    const ring = make("div.ring", { role: "img", "aria-label": card.name });
    const legend = make("table.pie-legend");
    for (const slice of kept) {
      legend.append(make("tr", {}, make("td", {}, make("span.key", { style: { background: slice.colour } })), make("td", {}, slice.name),
        make("td.number", {}, Format.number(slice.value, style)),
        make("td.number.quiet", {}, Format.number(slice.value / whole, { number_style: "percent", decimals: 1 }))));
    }
    box.append(make("div.pie", {}, ring, make("div.pie-side", {}, legend)));
    const chart = echarts.init(ring, null, { renderer: "svg" });
    const redraw = () => {
      const look = ink(box);
      chart.resize({ animation: { duration: 0 } });
      chart.setOption({
        ...base(look),
        tooltip: {
          ...base(look).tooltip, trigger: "item",
          formatter: ({ data }) => make("div", {}, `${data.name}: ${Format.number(data.value, style)}`),
        },
        series: [{
          type: "pie", radius: ["58%", "92%"], label: { show: false }, emphasis: { disabled: true },
          itemStyle: { borderColor: look.paper, borderWidth: 2 },
          data: kept.map((slice) => ({ name: slice.name, value: slice.value, itemStyle: { color: slice.colour } })),
        }],
      }, true);
    };
    redraw();
    return { redraw, dispose: () => chart.dispose() };
  }

  return { draw };
})();
