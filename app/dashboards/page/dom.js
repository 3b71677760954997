// Elements made of text: what shoppers typed is never read as markup.
const Dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  // make("button.quiet", {type: "button", onclick}, "text", child …)
  function make(name, attributes = {}, ...children) {
    const [tag, ...classes] = name.split(".");
    return fill(document.createElement(tag), classes, attributes, children);
  }

  function svg(name, attributes = {}, ...children) {
    const [tag, ...classes] = name.split(".");
    return fill(document.createElementNS(SVG, tag), classes, attributes, children);
  }

  function fill(element, classes, attributes, children) {
    element.classList.add(...classes);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") for (const [rule, text] of Object.entries(value)) element.style.setProperty(rule, text);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  // The few marks that dashboards' own texts use: # headings, - lists, **bold**.
  function prose(text) {
    const box = make("div.prose");
    let list = null;
    for (const line of String(text ?? "").split("\n")) {
      const [, marks, words] = /^(#{1,4}|-|\*)?\s*(.*)$/.exec(line);
      if (marks !== "-" && marks !== "*") list = null;
      if (!words) continue;
      if (marks === "-" || marks === "*") {
        if (!list) box.append((list = make("ul")));
        list.append(make("li", {}, ...bold(words)));
      } else box.append(make(marks ? "h3" : "p", {}, ...bold(words)));
    }
    return box;
  }

  function bold(words) {
    return words.split("**").map((part, index) => (index % 2 ? make("strong", {}, part) : part));
  }

  return { make, svg, prose };
})();
