"use strict";
// Shows what lives at the pointer, and leaves out the part that the reader does not want.
(() => {
  function size(bytes) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = 0;
    while (bytes >= 1024 && at < units.length - 1) (bytes /= 1024), (at += 1);
    return `${at ? bytes.toPrecision(4) : bytes} ${units[at]}`;
  }

  function areas(place) {
    const data = JSON.parse(place.querySelector("script.values").textContent);
    const views = [...place.querySelectorAll(".view")];
    const detail = place.querySelector(".detail");
    const check = place.querySelector(".check input");
    check?.addEventListener("change", () => views.forEach((view, at) => (view.hidden = check.checked !== (at === 0))));
    for (const view of views) {
      const plot = view.querySelector(".plot > svg");
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      line.setAttribute("class", "here");
      line.setAttribute("y2", "100%");
      plot.addEventListener("pointermove", (event) => {
        const frame = plot.getBoundingClientRect();
        const share = Math.min(Math.max((event.clientX - frame.left) / frame.width, 0), 0.9999);
        const at = Math.floor(share * data.x.length);
        line.setAttribute("x1", `${100 * share}%`);
        line.setAttribute("x2", `${100 * share}%`);
        plot.append(line);
        const parts = Object.entries(data.parts).map(([name, values]) => `${name} ${size(values[at])}`);
        detail.textContent = [`operator ${data.x[at]}`, data.label[at], ...parts].filter(Boolean).join(" · ");
      });
      plot.addEventListener("pointerleave", () => line.remove());
    }
  }

  document.querySelectorAll(".areas").forEach(areas);
})();
