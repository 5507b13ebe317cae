"use strict";
// Draws the charts of a page with uPlot: the values under the pointer, switches for the lines, smoothing.
(() => {
const FAINT = "55";  // opacity of the logged values behind smoothed ones, as the end of #rrggbbaa
const BAND = "2e";
const HEIGHT = 240;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const stroke = (series) => series.color === "#000000" ? color("--text") : series.color;
const number = (value, percent) =>
  value == null ? "–" : percent ? `${Number((100 * value).toPrecision(4))} %` : String(Number(value.toPrecision(5)));

// Exponential moving average that starts at the first value; what is not a number stays a gap.
function smoothed(values, share) {
  let sum = 0, weight = 0;
  return values.map((value) => {
    if (value == null) return value;
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
}

class Board {
  constructor(section) {
    this.data = JSON.parse(section.querySelector("script").textContent);
    this.smoothing = 0;
    this.axis = this.data.axes[0];
    this.moving = false;
    this.charts = [...section.querySelectorAll(".chart")].map((place, index) => new Chart(this, place, this.data.charts[index]));
    for (const input of section.querySelectorAll(".switch"))
      input.addEventListener("change", () => this.charts.forEach((chart) => chart.toggle(Number(input.value), input.checked)));
    section.querySelector(".axis")?.addEventListener("change", (event) => {
      this.axis = this.data.axes[event.target.value];
      this.charts.forEach((chart) => chart.refresh());
    });
    const slider = section.querySelector(".smoothing"), shown = slider.nextElementSibling;
    slider.addEventListener("input", () => {
      this.smoothing = Number(slider.value);
      shown.textContent = this.smoothing ? slider.value : "off";
      this.charts.forEach((chart) => chart.refresh());
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.charts.forEach((chart) => chart.plot.redraw()));
  }

  // All charts show the place x; null: none, the last values.
  show(x, origin) {
    if (this.moving) return;
    this.moving = true;
    for (const chart of this.charts) {
      if (chart !== origin) chart.point(x);
      chart.write(x);
    }
    this.moving = false;
  }
}

class Chart {
  constructor(board, place, spec) {
    this.board = board;
    this.spec = spec;
    this.hidden = new Set();
    this.place = place.querySelector(".plot");
    this.outputs = [...place.querySelectorAll(".values li")];
    this.plot = new uPlot(this.options(), this.table(), this.place);
    new ResizeObserver(() => this.plot.setSize({width: this.place.clientWidth, height: HEIGHT})).observe(this.place);
    this.place.addEventListener("keydown", (event) => this.key(event));
    this.place.addEventListener("blur", () => board.show(null));
    this.write(null);
  }

  // Four columns for each line: what is shown, the logged values behind it, the edges of its band.
  table() {
    const empty = (line) => line.x.map(() => null);
    return uPlot.join(this.spec.lines.map((line) => [
      this.xs(line),
      this.smooths(line) ? smoothed(line.y, this.board.smoothing) : line.y,
      this.smooths(line) ? line.y : empty(line),
      line.low.length ? line.low : empty(line),
      line.high.length ? line.high : empty(line),
    ]));
  }

  // The line's places in the unit of the axis.
  xs(line) {
    const {perX, whole} = this.board.axis;
    return line.x.map((x) => whole ? Math.round(x * perX[line.series]) : x);
  }

  smooths(line) {
    return this.board.smoothing > 0 && !line.markers;
  }

  options() {
    const {spec, board} = this;
    const axis = {stroke: () => color("--muted"), grid: {stroke: () => color("--line"), width: 1}, ticks: {stroke: () => color("--line"), width: 1}};
    const scale = spec.logarithmic ? {distr: 3} : spec.fromZero ? {range: (_, low, high) => [0, 1.05 * high || 1]} : {};
    return {
      width: this.place.clientWidth, height: HEIGHT, legend: {show: false},
      scales: {x: {time: false}, y: scale},
      axes: [
        {...axis, label: () => board.axis.name, labelSize: 20, size: 40},
        {...axis, size: 64, values: (_, ticks) => ticks.map((tick) => tick == null ? "" : number(tick, spec.percent))},
      ],
      cursor: {y: false, points: {size: 7}},
      series: [{}, ...spec.lines.flatMap((line) => this.columns(line, board.data.series[line.series]))],
      bands: spec.lines.flatMap((line, index) => line.low.length
        ? [{series: [4 * index + 4, 4 * index + 3], fill: () => stroke(board.data.series[line.series]) + BAND}] : []),
      hooks: {setCursor: [(plot) => board.show(plot.cursor.left < 0 ? null : plot.posToVal(plot.cursor.left, "x"), this)]},
    };
  }

  columns(line, series) {
    const main = {stroke: () => stroke(series), width: line.markers ? 1 : 2, dash: series.dash};
    const points = line.markers || line.x.length === 1 ? {show: true, size: 6, fill: () => color("--page")} : {show: false};
    const edge = {stroke: "#00000000", points: {show: false}};
    return [{...main, points}, {stroke: () => stroke(series) + FAINT, width: 1, points: {show: false}}, edge, edge];
  }

  toggle(series, shown) {
    if (shown) this.hidden.delete(series); else this.hidden.add(series);
    this.spec.lines.forEach((line, index) => {
      if (line.series !== series) return;
      for (let column = 1; column <= 4; column++) this.plot.setSeries(4 * index + column, {show: shown});
      this.outputs[index].hidden = !shown;
    });
  }

  refresh() {
    this.plot.setData(this.table());
    this.write(null);
  }

  point(x) {
    const left = x == null ? -10 : this.plot.valToPos(x, "x");
    this.plot.setCursor({left, top: x == null ? -10 : 10}, false);
  }

  // The values at the pointer, or the last ones.
  write(x) {
    this.spec.lines.forEach((line, index) => {
      const xs = this.xs(line), at = nearest(xs, x), {name, whole} = this.board.axis;
      const values = this.smooths(line) ? smoothed(line.y, this.board.smoothing) : line.y;
      const behind = this.smooths(line) ? `, logged ${number(line.y[at], this.spec.percent)}` : "";
      const band = line.low.length ? ` (${number(line.low[at], this.spec.percent)} to ${number(line.high[at], this.spec.percent)})` : "";
      const where = `${name} ${whole ? xs[at].toLocaleString("en") : number(xs[at])}`;
      this.outputs[index].querySelector("output").textContent = `${number(values[at], this.spec.percent)}${band}${behind}, ${where}`;
    });
  }

  key(event) {
    const xs = this.plot.data[0], step = event.shiftKey ? 10 : 1;
    const now = this.at ?? xs.length - 1;
    const next = {ArrowLeft: now - step, ArrowRight: now + step, Home: 0, End: xs.length - 1}[event.key];
    if (event.key === "Escape") this.board.show(null);
    if (next === undefined) return;
    event.preventDefault();
    this.at = Math.min(xs.length - 1, Math.max(0, next));
    this.board.show(xs[this.at]);
  }
}

// Number of the place that is nearest to x; the last one for null.
function nearest(xs, x) {
  if (x == null) return xs.length - 1;
  let best = 0;
  xs.forEach((value, index) => {
    if (Math.abs(value - x) < Math.abs(xs[best] - x)) best = index;
  });
  return best;
}

for (const section of document.querySelectorAll(".charts")) new Board(section);
})();
