// Values as people read them: numbers, money, percent, durations and days, as a card's column settings say.
const Format = (() => {
  const LOCALE = "en";
  const SECONDS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const numbers = new Map();

  function numberFormat(options) {
    const key = JSON.stringify(options);
    if (!numbers.has(key)) numbers.set(key, new Intl.NumberFormat(LOCALE, options));
    return numbers.get(key);
  }

  // The settings of one column; a key is the JSON text ["name","column"].
  function columnSettings(settings, name) {
    const all = settings.column_settings || {};
    return Object.assign({}, all[JSON.stringify(["name", name])], (settings.series_column_settings || {})[name]);
  }

  function title(settings, name) {
    const series = (settings.series_settings || {})[name] || {};
    const own = columnSettings(settings, name).column_title || series.title;
    if (own) return own;
    const words = String(name).replaceAll("_", " ").trim();
    return words.charAt(0).toUpperCase() + words.slice(1);
  }

  function number(value, style, options = {}) {
    if (value === null || value === undefined || value === "" || Number.isNaN(Number(value))) return "–";
    let amount = Number(value) * (style.scale ?? 1);
    if (style.number_style === "duration") return duration(amount);
    const isPercent = style.number_style === "percent";
    if (isPercent) amount *= 100;
    const decimals = options.decimals ?? style.decimals;
    const wanted = decimals === undefined ? { maximumFractionDigits: isPercent ? percentDecimals(amount) : 2 } : {
      minimumFractionDigits: decimals, maximumFractionDigits: decimals,
    };
    if (options.compact && Math.abs(amount) >= (options.compactFrom ?? 10000)) {
      Object.assign(wanted, { notation: "compact", minimumFractionDigits: 0, maximumFractionDigits: 1 });
    }
    if (options.atMost !== undefined) Object.assign(wanted, { minimumFractionDigits: 0, maximumFractionDigits: options.atMost });
    let text;
    if (style.number_style === "currency") {
      const whole = options.compact ? { minimumFractionDigits: 0, maximumFractionDigits: decimals ?? 0 } : {};
      const money = decimals === undefined && options.atMost === undefined ? {} : wanted;
      text = currency(amount, style, { ...whole, ...money, ...(wanted.notation ? wanted : {}) });
    } else {
      text = numberFormat(wanted).format(amount);
    }
    return `${style.prefix ?? ""}${text}${isPercent ? "%" : ""}${style.suffix ?? ""}`;
  }

  function currency(amount, style, wanted) {
    const display = { code: "code", name: "name" }[style.currency_style] || "narrowSymbol";
    try {
      return numberFormat({
        style: "currency", currency: style.currency || "EUR", currencyDisplay: display, ...wanted,
      }).format(amount);
    } catch {
      return `${numberFormat(wanted).format(amount)} ${style.currency}`; // a currency the browser does not know
    }
  }

  function percentDecimals(percent) {
    return Math.abs(percent) >= 100 ? 0 : Math.abs(percent) >= 10 ? 1 : 2;
  }

  // 4,210 s as "1 h 10 min": the two largest units that are not zero.
  function duration(seconds) {
    const sign = seconds < 0 ? "-" : "";
    let left = Math.abs(seconds);
    if (left < 1) return `${sign}${numberFormat({ maximumFractionDigits: 2 }).format(left)} s`;
    if (left < 10) return `${sign}${numberFormat({ maximumFractionDigits: 1 }).format(left)} s`;
    left = Math.round(left);
    const first = SECONDS.findIndex(([size]) => left >= size);
    const parts = [];
    for (const [size, unit] of SECONDS.slice(first, first + 2)) {
      const count = Math.floor(left / size);
      left -= count * size;
      if (count) parts.push(`${count} ${unit}`);
    }
    return sign + parts.join(" ");
  }

  // Days and instants are stored local: they are read as they stand, without the reader's time zone.
  function moment(text) {
    const [day, time = "00:00:00"] = String(text).replace(" ", "T").split("T");
    return new Date(`${day}T${time.slice(0, 8)}Z`);
  }

  function day(text, options = { day: "numeric", month: "short", year: "numeric" }) {
    const at = moment(text);
    if (Number.isNaN(at.getTime())) return String(text);
    return new Intl.DateTimeFormat(LOCALE, { ...options, timeZone: "UTC" }).format(at);
  }

  function instant(text) {
    const options = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" };
    return day(text, { ...options, hourCycle: "h23" });
  }

  // How to show the values of a column in full.
  function formatter(settings, column) {
    const style = columnSettings(settings, column.name);
    if (column.type === "number") return (value) => number(value, style);
    if (column.type === "date") return (value) => (value === null ? "–" : day(value));
    if (column.type === "datetime") return (value) => (value === null ? "–" : instant(value));
    if (column.type === "boolean") return (value) => (value === null ? "–" : value ? "yes" : "no");
    return (value) => (value === null || value === "" ? "–" : `${style.prefix ?? ""}${value}${style.suffix ?? ""}`);
  }

  // How to show numbers along an axis: short.
  function axisFormatter(style, highest) {
    if (style.number_style === "duration") return (value) => axisDuration(value * (style.scale ?? 1));
    const top = Math.abs(highest * (style.scale ?? 1) * (style.number_style === "percent" ? 100 : 1));
    const atMost = top >= 5 || top === 0 ? (top >= 10000 ? 1 : 0) : top >= 0.5 ? 1 : 2;
    const compactFrom = top >= 10000 ? 1000 : Infinity;
    return (value) => number(value, { ...style, decimals: undefined }, { compact: true, compactFrom, atMost });
  }

  function axisDuration(seconds) {
    const [size, unit] = SECONDS.find(([size]) => Math.abs(seconds) >= size) || [1, "s"];
    return `${numberFormat({ maximumFractionDigits: 1 }).format(seconds / size)} ${unit}`;
  }

  return { columnSettings, title, number, duration, day, instant, formatter, axisFormatter };
})();
