"use strict";
/* Values on hover, zoom, and sliders. The page is complete without it; it fetches nothing. */
const gearPage = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const FACTORS = [1, 2, 2.5, 5, 10];
  const CHARACTER = 6.2;
  const EDGE = 5;
  const zooms = new Map(); // x ranges by chart, kept when a live page draws the chart anew

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function block(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function ticks(low, high, about, whole = false) {
    const rough = (high - low) / about;
    const power = Math.max(10 ** Math.floor(Math.log10(rough)), whole ? 1 : 0);
    const step = FACTORS.map((factor) => factor * power)
      .find((one) => one >= rough * 0.999 && !(whole && one % 1));
    const found = [];
    for (let n = Math.ceil(low / step - 1e-6); n <= Math.floor(high / step + 1e-6); n += 1)
      found.push(Number((n * step).toPrecision(10)));
    return found;
  }

  /* Short, and different for different ticks. */
  function labels(marks) {
    let texts = [];
    for (let digits = 4; digits < 16; digits += 1) {
      texts = marks.map((mark) => label(mark, digits));
      if (marks.every((mark) => Number(mark.toPrecision(digits)) === mark)) break;
    }
    return texts;
  }

  function label(value, digits) {
    const size = Math.abs(value);
    for (const [least, unit, name] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]])
      if (size >= least && size < 1e13) return Number((value / unit).toPrecision(digits)) + name;
    if (size && (size < 1e-3 || size >= 1e13)) return Number(value.toPrecision(digits)).toExponential();
    return String(Number(value.toPrecision(digits)));
  }

  /* The y range of the points between two x, with the line's ends there, from tick to tick. */
  function heights(series, x0, x1) {
    let low = Infinity, high = -Infinity;
    const take = (y) => { low = Math.min(low, y); high = Math.max(high, y); };
    for (const { points } of series)
      points.forEach(([x, y], i) => {
        if (x >= x0 && x <= x1) take(y);
        const next = points[i + 1];
        if (!next) return;
        for (const edge of [x0, x1])
          if (x < edge && edge < next[0]) take(y + ((next[1] - y) * (edge - x)) / (next[0] - x));
      });
    if (low > high) return null;
    if (high - low <= Math.abs(high) * 1e-9) {
      low -= Math.max(Math.abs(low), 1) * 0.1;
      high += Math.max(Math.abs(high), 1) * 0.1;
    }
    const marks = ticks(low, high, 4);
    const step = marks.length > 1 ? marks[1] - marks[0] : (high - low) / 2;
    const [first, last] = [marks[0], marks[marks.length - 1]];
    return [
      low > first - step * 1e-6 ? first : first - step,
      high < last + step * 1e-6 ? last : last + step,
    ];
  }

  function tipOf(figure) {
    const tip = block("div", "tip");
    tip.setAttribute("role", "status");
    tip.hidden = true;
    figure.append(tip);
    return tip;
  }

  function placeTip(tip, figure, x, y) {
    tip.hidden = false;
    const room = figure.clientWidth - tip.offsetWidth - 4;
    const left = x + 14 > room ? x - tip.offsetWidth - 14 : x + 14;
    tip.style.left = `${Math.max(4, Math.min(left, room))}px`;
    tip.style.top = `${y}px`;
  }

  function enhanceChart(figure) {
    const { axes: whole, area: wholeArea, whole: wholeSteps, x: xName, series } = JSON.parse(figure.dataset.chart);
    const svg = figure.querySelector(":scope > svg");
    const plot = svg.querySelector(".plot");
    const group = svg.querySelector(".axes");
    const wholeAxes = [...group.childNodes];
    const key = `${figure.closest("[data-stage]")?.dataset.stage ?? ""}/${figure.querySelector("figcaption").textContent}`;
    const [, top, , bottom] = wholeArea;
    const width = wholeArea[2] - wholeArea[0], height = bottom - top;
    const numbers = (text) => text.trim().split(/\s+/).filter(Boolean).map((p) => p.split(",").map(Number));
    const shapes = [...plot.querySelectorAll("polyline, polygon")].map((node) => ({
      node, places: numbers(node.getAttribute("points")),
    }));
    const dots = [...plot.querySelectorAll("circle")].map((node) => ({
      node, place: [Number(node.getAttribute("cx")), Number(node.getAttribute("cy"))],
    }));
    const xs = [...new Set(series.flatMap((one) => one.points.map((p) => p[0])))].sort((a, b) => a - b);
    const cursor = element("path", { class: "cursor" });
    const selection = element("rect", { class: "selection", y: 0, height, width: 0 });
    plot.append(selection, cursor);
    const tip = tipOf(figure);
    const reset = block("button", "reset", "Reset zoom");
    reset.type = "button";
    reset.hidden = true;
    figure.querySelector("figcaption").after(reset);
    let axes = whole, area = wholeArea, at = -1, start = null;

    function moved([x, y]) {
      const [x0, x1, y0, y1] = axes;
      const dataX = whole[0] + (x / width) * (whole[1] - whole[0]);
      const dataY = whole[3] - (y / height) * (whole[3] - whole[2]);
      return [
        ((dataX - x0) / (x1 - x0)) * (area[2] - area[0]),
        ((y1 - dataY) / (y1 - y0)) * height,
      ];
    }

    function draw() {
      const outer = area[2] - area[0] + 2 * EDGE;
      plot.setAttribute("x", area[0] - EDGE);
      plot.setAttribute("width", outer);
      plot.setAttribute("viewBox", `${-EDGE} ${-EDGE} ${outer} ${height + 2 * EDGE}`);
      for (const { node, places } of shapes)
        node.setAttribute("points", places.map((p) => moved(p).map((v) => v.toFixed(2)).join()).join(" "));
      for (const { node, place } of dots) {
        const [x, y] = moved(place);
        node.setAttribute("cx", x);
        node.setAttribute("cy", y);
      }
      reset.hidden = axes === whole;
      if (axes === whole) return group.replaceChildren(...wholeAxes);
      const parts = [], [left, , right] = area, [x0, x1, y0, y1] = axes;
      const yMarks = ticks(y0, y1, 4), xMarks = ticks(x0, x1, 5, wholeSteps);
      const yTexts = labels(yMarks), xTexts = labels(xMarks);
      for (const [i, mark] of yMarks.entries()) {
        const down = top + ((y1 - mark) / (y1 - y0)) * height;
        parts.push(element("path", { class: "g", d: `M${left},${down}H${right}` }));
        parts.push(element("text", { x: left - 5, y: down + 4, "text-anchor": "end" }, yTexts[i]));
      }
      for (const [i, mark] of xMarks.entries()) {
        const across = left + ((mark - x0) / (x1 - x0)) * (right - left);
        parts.push(element("path", { class: "a", d: `M${across},${bottom}v4` }));
        parts.push(element("text", { x: across, y: bottom + 16, "text-anchor": "middle" }, xTexts[i]));
      }
      parts.push(element("path", { class: "a", d: `M${left},${top}V${bottom}H${right}` }));
      group.replaceChildren(...parts);
    }

    function zoom(x0, x1) {
      const range = x1 > x0 ? heights(series, x0, x1) : null;
      if (!range) return;
      axes = [x0, x1, ...range];
      const longest = (marks) => Math.max(1, ...labels(marks).map((text) => text.length));
      const right = 356 - Math.max((CHARACTER * longest(ticks(x0, x1, 5, wholeSteps))) / 2, 6);
      area = [10 + CHARACTER * longest(ticks(...range, 4)), top, right, bottom];
      zooms.set(key, [x0, x1]);
      draw();
    }

    function unzoom() {
      axes = whole;
      area = wholeArea;
      zooms.delete(key);
      draw();
    }

    function across(event) { // the pointer in units of the drawing, from the left edge of the area
      const box = svg.getBoundingClientRect();
      return ((event.clientX - box.left) / box.width) * 360 - area[0];
    }
    const toData = (x) => axes[0] + (x / (area[2] - area[0])) * (axes[1] - axes[0]);
    const toPlot = (x) => ((x - axes[0]) / (axes[1] - axes[0])) * (area[2] - area[0]);

    function show(index) {
      const inside = xs.map((x, i) => [x, i]).filter(([x]) => x >= axes[0] && x <= axes[1]);
      if (!inside.length) return;
      at = Math.max(inside[0][1], Math.min(index, inside[inside.length - 1][1]));
      const x = xs[at];
      cursor.setAttribute("d", `M${toPlot(x)},0V${height}`);
      tip.replaceChildren(block("div", "at", `${xName} ${x}`));
      series.forEach(({ label: name, points }, number) => {
        if (!points.length) return;
        const near = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
        const row = block("div", "value");
        const swatch = element("svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" });
        swatch.append(element("path", { class: `s${number % 8}`, d: "M0,5H26" }));
        const where = near[0] === x ? "" : ` (at ${near[0]})`;
        const value = Number(near[1].toPrecision(4));
        row.append(swatch, `${series.length > 1 ? `${name}: ` : ""}${value}${where}`);
        tip.append(row);
      });
      const box = svg.getBoundingClientRect(), outer = figure.getBoundingClientRect();
      const scale = box.width / 360;
      placeTip(tip, figure, box.left - outer.left + (area[0] + toPlot(x)) * scale, box.top - outer.top + top * scale);
    }

    function nearest(x) {
      return xs.reduce((best, one, i) => (Math.abs(one - x) < Math.abs(xs[best] - x) ? i : best), 0);
    }

    function hide() {
      tip.hidden = true;
      cursor.setAttribute("d", "");
      at = -1;
    }

    svg.setAttribute("tabindex", "0");
    svg.setAttribute("aria-roledescription", "chart");
    figure.classList.add("live");
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) {
        start = across(event);
        svg.setPointerCapture(event.pointerId);
      }
      show(nearest(toData(across(event))));
    });
    svg.addEventListener("pointermove", (event) => {
      const here = across(event);
      if (start !== null) {
        selection.setAttribute("x", Math.min(start, here));
        selection.setAttribute("width", Math.abs(here - start));
      }
      show(nearest(toData(here)));
    });
    svg.addEventListener("pointerup", (event) => {
      const from = start, to = across(event);
      start = null;
      selection.setAttribute("width", 0);
      if (from === null || Math.abs(to - from) < 6) return;
      const [x0, x1] = [from, to].map(toData).sort((a, b) => a - b);
      zoom(Math.max(x0, axes[0]), Math.min(x1, axes[1]));
    });
    svg.addEventListener("pointercancel", () => { start = null; selection.setAttribute("width", 0); });
    svg.addEventListener("pointerleave", () => { if (start === null) hide(); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("dblclick", unzoom);
    reset.addEventListener("click", () => { unzoom(); svg.focus(); });
    svg.addEventListener("keydown", (event) => {
      const here = at < 0 ? -1 : at;
      const half = (axes[1] - axes[0]) / 4;
      const middle = here < 0 ? (axes[0] + axes[1]) / 2 : xs[here];
      const keys = {
        ArrowRight: () => show(here + 1),
        ArrowLeft: () => show(here < 0 ? xs.length : here - 1),
        Home: () => show(0),
        End: () => show(xs.length - 1),
        Escape: hide,
        "+": () => zoom(Math.max(middle - half, whole[0]), Math.min(middle + half, whole[1])),
        "-": unzoom,
        0: unzoom,
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    const earlier = zooms.get(key);
    if (earlier) zoom(...earlier);
  }

  /* Two pictures of one size: the first lies over the second, as far as the slider says. */
  function enhanceComparison(figure) {
    const [over, under] = figure.querySelectorAll("img");
    const stack = block("div", "stack");
    over.before(stack);
    figure.querySelectorAll("h3, .between").forEach((node) => node.remove());
    stack.append(under, over);
    over.classList.add("over");
    const slider = document.createElement("input");
    slider.type = "range";
    slider.min = 0;
    slider.max = 100;
    slider.value = 50;
    slider.setAttribute("aria-label", figure.dataset.slider);
    const names = block("div", "names");
    names.append(block("span", "", figure.dataset.left), block("span", "", figure.dataset.right));
    const reveal = () => { over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`; stack.style.setProperty("--at", `${slider.value}%`); };
    slider.addEventListener("input", reveal);
    stack.after(slider, names);
    reveal();
  }

  /* A picture of equal tiles: the pointer shows the label of the one that it is over. */
  function enhanceTiles(figure) {
    const { columns, labels } = JSON.parse(figure.dataset.tiles);
    const picture = figure.querySelector("img");
    const tip = tipOf(figure);
    const rows = Math.ceil(labels.length / columns);
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect(), outer = figure.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      const text = labels[row * columns + column];
      if (text === undefined || column < 0 || column >= columns) { tip.hidden = true; return; }
      tip.textContent = text;
      placeTip(tip, figure, event.clientX - outer.left, event.clientY - outer.top + 16);
    });
    picture.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  /* A wide picture that the page's width makes small: a click shows it in its own size. */
  function enhanceSheet(sheet) {
    sheet.classList.add("zoomable");
    sheet.firstElementChild.addEventListener("click", () => sheet.classList.toggle("zoomed"));
  }

  function enhance(root) {
    root.querySelectorAll(".sheet").forEach(enhanceSheet);
    root.querySelectorAll("figure.chart:not(.live)").forEach(enhanceChart);
    root.querySelectorAll("figure.compare").forEach(enhanceComparison);
    root.querySelectorAll("figure.tiles").forEach(enhanceTiles);
  }

  enhance(document);
  return { enhance, block };
})();
