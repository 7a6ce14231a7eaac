// One row of tokens, coloured by what Python says. Token text is data: it only ever becomes textContent.
function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const root = parentElement.querySelector(".tokens");
  root.controller?.abort();
  const controller = new AbortController();
  root.controller = controller;

  const legend = element("div", "legend");
  for (const { color, label } of data.legend) {
    const item = element("span");
    const swatch = element("i", "swatch");
    swatch.style.background = color;
    item.append(swatch, element("span", "", label));
    legend.append(item);
  }
  const row = element("div", "row");
  const chips = new Map();
  for (const token of data.tokens) {
    const node = element("button", `tok${token.split ? " split" : ""}`, token.text);
    node.type = "button";
    node.dir = "auto";
    node.title = token.title;
    node.style.background = token.color;
    node.dataset.index = token.index;
    node.setAttribute("aria-label", `target token ${token.index}`);
    chips.set(token.index, node);
    row.append(node);
    if (token.breaks) row.append(element("span", "break"));
  }
  root.replaceChildren(legend, row);
  const pin = (index) => {
    for (const node of row.querySelectorAll(".pinned")) node.classList.remove("pinned");
    chips.get(index)?.classList.add("pinned");
  };
  pin(data.selected);
  row.addEventListener("click", (event) => {
    if (!event.target.classList?.contains("tok")) return;
    const index = Number(event.target.dataset.index);
    pin(index);
    setStateValue("clicked", `${index}@${data.turn}@${Date.now()}`);
  }, { signal: controller.signal });
  return () => controller.abort();
}
