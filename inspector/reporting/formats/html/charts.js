"use strict";
// Unpacks plotly, which is in the page, and draws the charts.
(() => {
  async function load() {
    const packed = document.getElementById("plotly-packed").textContent;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
  }

  function colors() {
    const style = getComputedStyle(document.documentElement);
    const [ink, paper] = ["--ink", "--paper"].map((name) => style.getPropertyValue(name).trim());
    return { "font.color": ink, "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink };
  }

  function narrow() {
    return window.innerWidth < 640;
  }

  function draw(place) {
    const spec = JSON.parse(document.getElementById(`${place.id}-data`).textContent);
    const ink = colors();
    spec.layout.font.color = ink["font.color"];
    spec.layout.hoverlabel = {
      ...spec.layout.hoverlabel,
      bgcolor: ink["hoverlabel.bgcolor"],
      font: { color: ink["hoverlabel.font.color"] },
    };
    if (narrow() && spec.layout.xaxis) spec.layout.margin = { ...spec.layout.margin, l: 48, r: 4 };
    if (narrow() && spec.layout.showlegend) spec.layout.height += 18 * spec.data.length; // one a line
    const tree = spec.data[0].type === "icicle";
    if (narrow() && tree) Object.assign(spec.data[0], { maxdepth: 4, texttemplate: "%{label}" });
    // Plotly's own choice of buttons has one that uploads the chart.
    const buttons = [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
    const config = { displaylogo: false, responsive: true, modeBarButtons: buttons };
    config.displayModeBar = narrow() || tree ? false : "hover";
    Plotly.newPlot(place, spec.data, spec.layout, config);
  }

  function switchable(tree) {
    const values = JSON.parse(tree.querySelector("script.values").textContent);
    const place = tree.querySelector(".plot");
    const buttons = [...tree.querySelectorAll(".switch button")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        tree.querySelector(".whole").textContent = button.dataset.whole;
        Plotly.restyle(place, { values: [values[button.dataset.choice]] }, [0]);
      });
    }
    const zoom = tree.querySelector(".zoom");
    const paths = place.data[0].ids;
    for (const path of paths.slice(1)) zoom.list.append(new Option("", path));
    zoom.addEventListener("change", () => {
      if (zoom.value === "") Plotly.restyle(place, { level: paths[0] }, [0]);
      else if (paths.includes(zoom.value)) Plotly.restyle(place, { level: zoom.value }, [0]);
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  load()
    .then(() => {
      plots.forEach(draw);
      document.querySelectorAll(".tree").forEach(switchable);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
        plots.forEach((place) => Plotly.relayout(place, colors()));
      });
      document.body.dataset.drawn = plots.length;
    })
    .catch((error) => {
      for (const place of plots.filter((one) => one.childElementCount === 0))
        place.textContent = `This browser cannot draw the chart: ${error}`;
    });
})();
