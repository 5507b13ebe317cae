"use strict";
// The attention of validation images over training: one slider, image and view for the heads of all runs.
(() => {
const FAINTEST = 0.3, STRONGEST = 0.85;  // opacity of a component's patches over the image
const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

class Attention {
  constructor(section) {
    this.section = section;
    this.data = JSON.parse(section.querySelector("script").textContent);
    this.colors = this.data.components.map(rgb);
    this.scale = this.data.similarity.map(rgb);
    this.pictures = [...section.querySelectorAll(".attended-images img")];
    this.image = section.querySelector("[name=image]");
    this.view = section.querySelector("[name=view]");
    this.step = section.querySelector("[name=step]");
    this.places = [...section.querySelectorAll(".attended-run")];
    for (const control of [this.image, this.view, this.step]) control.addEventListener("input", () => this.draw());
    section.querySelector(".play").addEventListener("click", (event) => this.play(event.currentTarget));
    this.draw();
  }

  // One step after the other, from the beginning if the end is shown.
  play(button) {
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = null;
    } else {
      if (this.step.value === this.step.max) this.step.value = 0;
      this.timer = setInterval(() => {
        this.step.stepUp();
        this.draw();
        if (this.step.value === this.step.max) this.play(button);
      }, 700);
    }
    button.textContent = this.timer ? "Stop" : "Play";
    this.draw();
  }

  draw() {
    const step = this.data.steps[this.step.value], image = Number(this.image.value);
    const text = `step ${step.toLocaleString("en")}`;
    this.section.querySelector(".shown-step").textContent = text;
    this.step.setAttribute("aria-valuetext", text);
    this.data.runs.forEach((run, index) => this.drawRun(run, this.places[index], step, image));
  }

  // The newest maps of the run up to the step.
  drawRun(run, place, step, image) {
    const record = run.records.findLast((each) => each.step <= step), index = run.images.indexOf(image);
    const known = record !== undefined && index >= 0;
    place.querySelector(".heads").hidden = !known;
    if (!known) {
      place.querySelector(".verdict").textContent = index < 0 ? "does not have this image" : "nothing yet at this step";
      return;
    }
    const entropies = record.entropies[index], components = record.components[index];
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    place.querySelector(".verdict").textContent =
      `${record.labels[index]}, predicted ${record.predicted[index]} at step ${record.step.toLocaleString("en")}; mean of the heads: H ${mean(entropies).toFixed(3)}, ${mean(components).toFixed(1)} components`;
    const [rows, columns] = record.grid, patches = rows * columns;
    const bytes = atob(record.maps);
    place.querySelectorAll(".tile").forEach((tile, number) => {
      const picture = tile.querySelector("img");
      if (picture.src !== this.pictures[image].src) picture.src = this.pictures[image].src;
      const head = number - 1;  // the first tile is the image alone
      if (head < 0) return;
      tile.querySelector(".values-of-head").textContent = `H ${entropies[head].toFixed(2)}, ${components[head]} comp.`;
      const start = (index * run.heads + head) * patches;
      this.paint(tile.querySelector("canvas"), bytes, start, rows, columns);
    });
  }

  paint(canvas, bytes, start, rows, columns) {
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows), {levels} = this.data;
    for (let patch = 0; patch < rows * columns; patch++) {
      const byte = bytes.charCodeAt(start + patch), component = Math.floor(byte / levels), level = byte % levels;
      pixels.data.set(this.view.value === "similarity" ? this.seen(component, level) : this.marked(component, level), 4 * patch);
    }
    context.putImageData(pixels, 0, 0);
  }

  seen(component, level) {
    return [...this.scale[component ? this.data.levels + level : level], 255];
  }

  marked(component, level) {
    if (!component) return [0, 0, 0, 0];
    return [...this.colors[component - 1], 255 * (FAINTEST + (STRONGEST - FAINTEST) * level / (this.data.levels - 1))];
  }
}

for (const section of document.querySelectorAll(".attended")) new Attention(section);
})();
