// Two rows of tokens over a text, with links. Token text is data: it only ever becomes textContent.
const SVG = "http://www.w3.org/2000/svg";
const SIDES = ["source", "target"];

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function legend(data) {
  const box = element("div", "legend");
  const entry = (swatch, label) => {
    const item = element("span");
    item.append(swatch, element("span", "", label));
    box.append(item);
  };
  data.kinds.forEach((label, k) => {
    const swatch = element("i", `swatch k${k}`);
    swatch.style.background = "var(--ink)";
    entry(swatch, label);
  });
  entry(element("i", "swatch split"), "part of a character");
  entry(element("i", "swatch inexact"), "no exact span");
  if (data.tokens.some((side) => side.some((token) => token.covers))) entry(element("i", "swatch unknown"), "unknown");
  if (data.second) {
    const line = (color, style) => {
      const swatch = element("i", "swatch line");
      swatch.style.borderTop = `3px ${style} ${color}`;
      return swatch;
    };
    entry(line("#d6006e", "solid"), `only ${data.first}`);
    entry(line("#7a3ff2", "dashed"), `only ${data.second}`);
  }
  return box;
}

function chip(token, side) {
  const node = element("button", `tok${token.split ? " split" : ""}${token.exact ? "" : " inexact"}${
    token.covers ? " unknown" : ""}`, token.text);
  if (token.text === "") node.classList.add("empty");
  node.type = "button";
  node.dir = "auto";
  node.dataset.side = SIDES[side];
  node.dataset.index = token.index;
  node.setAttribute("aria-label", `${SIDES[side]} token ${token.index}`);
  return node;
}

function detailsOf(data, side, index, partners) {
  const table = element("table");
  const head = element("tr");
  for (const title of ["side", "token", "piece", "id", "bytes", "span", "note"]) head.append(element("th", "", title));
  table.append(head);
  const row = (s, token, note) => {
    const line = element("tr");
    const flags = [note, token.covers ? `stands for “${token.covers}”` : "", token.split ? "part of a character" : "", token.exact ? "" : "no exact span"];
    const cells = [data.names[s], token.text, token.piece, token.id, token.bytes, `${token.start}–${token.end}`,
      flags.filter(Boolean).join("; ")];
    for (const cell of cells) line.append(element("td", "", String(cell)));
    table.append(line);
  };
  row(side, data.tokens[side].get(index), `${data.kinds[data.tokens[side].get(index).kind]} group`);
  for (const [other, reason] of partners) {
    const token = data.tokens[1 - side].get(other);
    if (token) row(1 - side, token, reason);
  }
  if (partners.length === 0) row(1 - side, { text: "—", piece: "", id: "", bytes: "", start: "", end: "", exact: true },
    "no link");
  return table;
}

export default function (component) {
  const { data: raw, parentElement, setStateValue } = component;
  const root = parentElement.querySelector(".strip");
  root.controller?.abort();
  root.observer?.disconnect();
  const controller = new AbortController();
  root.controller = controller;

  const data = { ...raw, tokens: raw.tokens.map((list) => new Map(list.map((token) => [token.index, token]))) };
  const rows = element("div", "rows");
  const details = element("div", "details");
  const chips = [new Map(), new Map()];
  for (const group of raw.groups) {
    const box = element("span", `group k${group.kind}`);
    for (const side of [0, 1]) {
      const line = element("span", "side");
      for (const index of group.tokens[side]) {
        const node = chip(data.tokens[side].get(index), side);
        chips[side].set(index, node);
        line.append(node);
      }
      box.append(line);
    }
    rows.append(box);
  }
  const sides = element("div", "sides", `top: ${raw.names[0]} · bottom: ${raw.names[1]}`);
  root.replaceChildren(legend(raw), sides, rows, details);

  // Links: [source index, target index, class, reason]
  const links = raw.links.map(([i, j, style, reason]) => ({ ends: [i, j], style, reason, path: null }));
  const byToken = [new Map(), new Map()];
  for (const link of links)
    for (const side of [0, 1]) {
      const list = byToken[side].get(link.ends[side]) ?? [];
      list.push(link);
      byToken[side].set(link.ends[side], list);
    }

  function draw() {
    rows.querySelector("svg")?.remove();
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", rows.clientWidth);
    svg.setAttribute("height", rows.scrollHeight);
    const origin = rows.getBoundingClientRect();
    const places = chips.map((side) => {
      const found = new Map();
      for (const [index, node] of side) {
        const box = node.getBoundingClientRect();
        found.set(index, [box.left + box.width / 2 - origin.left - rows.clientLeft,
          box.top - origin.top - rows.clientTop + rows.scrollTop, box.height]);
      }
      return found;
    });
    for (const link of links) {
      const a = places[0].get(link.ends[0]);
      const b = places[1].get(link.ends[1]);
      if (!a || !b) continue;
      const path = document.createElementNS(SVG, "path");
      const [x1, y1, x2, y2] = [a[0], a[1] + a[2], b[0], b[1]];
      const bend = (y2 - y1) / 2;
      path.setAttribute("d", `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend} ${x2},${y2}`);
      if (link.style) path.setAttribute("class", link.style);
      else path.style.stroke = getComputedStyle(chips[0].get(link.ends[0])).getPropertyValue("--ink");
      link.path = path;
      svg.append(path);
    }
    rows.append(svg);
  }

  let pinned = raw.selected ?? null;
  function light(key) {
    for (const node of rows.querySelectorAll(".tok.lit, .tok.pinned")) node.classList.remove("lit", "pinned");
    for (const link of links) link.path?.classList.remove("lit");
    if (pinned) {
      const [side, index] = [pinned[0] === "s" ? 0 : 1, Number(pinned.slice(1))];
      chips[side].get(index)?.classList.add("pinned");
    }
    const shown = key ?? pinned;
    const side = shown?.[0] === "s" ? 0 : 1;
    const index = shown ? Number(shown.slice(1)) : -1;
    if (!shown || !chips[side].has(index)) {
      details.replaceChildren(element("div", "hint", "Point at a token to see its partners, bytes and span; click to keep it."));
      return;
    }
    chips[side].get(index).classList.add("lit");
    const partners = byToken[side].get(index) ?? [];
    for (const link of partners) {
      chips[1 - side].get(link.ends[1 - side])?.classList.add("lit");
      link.path?.classList.add("lit");
    }
    details.replaceChildren(detailsOf(data, side, index, partners.map((link) => [link.ends[1 - side], link.reason])));
  }
  const keyOf = (node) => (node.dataset.side === "source" ? "s" : "t") + node.dataset.index;
  const on = (type, handler) => rows.addEventListener(type, handler, { signal: controller.signal });
  on("mouseover", (event) => event.target.classList?.contains("tok") && light(keyOf(event.target)));
  on("focusin", (event) => event.target.classList?.contains("tok") && light(keyOf(event.target)));
  on("mouseleave", () => light(null));
  on("click", (event) => {
    if (!event.target.classList?.contains("tok")) return;
    const key = keyOf(event.target);
    pinned = pinned === key ? null : key;
    setStateValue("selected", pinned ?? "");
    light(null);
  });
  draw();
  light(null);
  let width = rows.clientWidth;
  root.observer = new ResizeObserver(() => {
    if (rows.clientWidth !== width) {
      width = rows.clientWidth;
      draw();
      light(null);
    }
  });
  root.observer.observe(rows);
  return () => {
    controller.abort();
    root.observer.disconnect();
  };
}
