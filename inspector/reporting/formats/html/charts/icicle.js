"use strict";
// Draws the opened part of a module tree, by the chosen number. Boxes too thin to see are left out: the space
// stays their module's.
(() => {
  const THIN = 0.0022; // of the height

  function tree(place) {
    const data = JSON.parse(place.querySelector("script.values").textContent);
    const count = data.path.length;
    const children = data.path.map(() => []);
    data.parent.forEach((parent, at) => parent >= 0 && children[parent].push(at));
    const depth = data.parent.map(() => 0);
    data.parent.forEach((parent, at) => (depth[at] = parent < 0 ? 0 : depth[parent] + 1));
    const boxes = place.querySelector(".boxes");
    const way = place.querySelector(".way");
    const detail = place.querySelector(".detail");
    const find = place.querySelector(".find input");
    const buttons = [...place.querySelectorAll(".switch button")];
    let choice = buttons.find((button) => button.ariaPressed === "true").dataset.choice;
    let opened = 0;
    let drawn = new Map();

    function share(at) {
      const whole = data.values[choice][0];
      return whole ? data.values[choice][at] / whole : 0;
    }

    function part(at) {
      return `${(100 * share(at)).toFixed(2)}% of ${data.area ? "the area" : `all ${choice}`}`;
    }

    function describe(at) {
      return [data.path[at] || data.label[at], data.type[at], part(at)].filter(Boolean).join(", ");
    }

    function tell(at) {
      const parts = Object.entries(data.texts).map(([name, texts]) => [name, texts[at]]);
      detail.replaceChildren(
        ...[...parts, ["", part(at)]].map(([name, text]) => {
          const item = document.createElement("span");
          const value = document.createElement("b");
          value.textContent = text;
          item.append(`${name} `, value);
          return item;
        }),
      );
    }

    // The left edge of each column, in percent: a column is as wide as its longest name asks for.
    function edges(shown) {
      const widths = [];
      for (const { at } of shown) {
        const column = depth[at] - depth[opened];
        const wish = Math.min(data.label[at].length + data.type[at].length / 2, 26);
        widths[column] = Math.max(widths[column] || 7, wish);
      }
      const whole = widths.reduce((sum, width) => sum + width, 0);
      return widths.reduce((all, width) => [...all, all.at(-1) + (100 * width) / whole], [0]);
    }

    function box({ at, top, height, last }, lefts) {
      const button = document.createElement("button");
      const name = document.createElement("b");
      const kind = document.createElement("small");
      name.textContent = data.label[at];
      kind.textContent = data.type[at];
      button.append(name, kind);
      button.type = "button";
      button.tabIndex = -1;
      button.className = data.color[choice][at];
      button.setAttribute("aria-label", describe(at));
      const column = depth[at] - depth[opened];
      button.style.left = `${lefts[column]}%`;
      button.style.width = `calc(${(last ? 100 : lefts[column + 1]) - lefts[column]}% - 1px)`;
      button.style.top = `${100 * top}%`;
      button.style.height = `calc(${100 * height}% - 1px)`;
      const pixels = height * boxes.clientHeight;
      if (pixels < 13) button.classList.add("tiny");
      if (pixels > 60) button.classList.add("tall");
      button.addEventListener("click", () => open(at === opened ? Math.max(data.parent[at], 0) : at, at));
      button.addEventListener("pointerenter", () => tell(at));
      button.addEventListener("focus", () => tell(at));
      drawn.set(at, button);
      return button;
    }

    function draw() {
      const whole = data.values[choice][opened];
      const height = (at) => (whole ? data.values[choice][at] / whole : 0);
      const shown = [];
      (function lay(at, top) {
        const inside = children[at].filter((child) => height(child) >= THIN);
        if (height(at) >= THIN) shown.push({ at, top, height: height(at), last: inside.length === 0 });
        let next = top;
        for (const child of children[at]) {
          if (height(child) >= THIN) lay(child, next);
          next += height(child);
        }
      })(opened, 0);
      drawn = new Map();
      const lefts = edges(shown);
      const made = shown.map((one) => box(one, lefts));
      boxes.replaceChildren(...made);
      if (made.length) made[0].tabIndex = 0;
      search();
    }

    function open(at, focus) {
      opened = at;
      const steps = [];
      for (let step = at; step >= 0; step = data.parent[step]) steps.unshift(step);
      way.replaceChildren(
        ...(at === 0 ? [] : steps).map((step) => {
          const button = document.createElement("button");
          button.type = "button";
          button.textContent = data.label[step];
          button.addEventListener("click", () => open(step));
          return button;
        }),
      );
      draw();
      if (focus !== undefined) (drawn.get(focus) || drawn.get(opened))?.focus();
    }

    function step(at, key) {
      const siblings = (data.parent[at] < 0 ? [] : children[data.parent[at]]).filter((one) => drawn.has(one));
      const beside = siblings.indexOf(at);
      if (key === "ArrowRight") return children[at].find((one) => drawn.has(one));
      if (key === "ArrowLeft") return at === opened ? undefined : data.parent[at];
      if (at === opened) return undefined;
      return siblings[beside + (key === "ArrowDown" ? 1 : -1)];
    }

    boxes.addEventListener("keydown", (event) => {
      const at = [...drawn].find(([, button]) => button === document.activeElement)?.[0];
      if (at === undefined) return;
      if (event.key === "Escape" && opened !== 0) open(data.parent[opened], opened);
      else if (event.key.startsWith("Arrow")) {
        const next = drawn.get(step(at, event.key));
        if (next) {
          drawn.get(at).tabIndex = -1;
          next.tabIndex = 0;
          next.focus();
        }
      } else return;
      event.preventDefault();
    });

    function search() {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const hit = (at) =>
        words.every((word) => `${data.path[at] || data.label[at]} ${data.type[at]}`.toLowerCase().includes(word));
      boxes.classList.toggle("found", words.length > 0);
      for (const [at, button] of drawn) button.classList.toggle("hit", words.length > 0 && hit(at));
      const hits = words.length ? data.path.filter((_, at) => hit(at)).length : 0;
      place.querySelector("output").textContent = words.length ? `${hits} of ${count} modules` : "";
    }
    find.addEventListener("input", search);
    find.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const at = data.path.indexOf(find.value);
      if (at >= 0) open(at);
    });

    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        choice = button.dataset.choice;
        place.querySelector(".whole").textContent = button.dataset.whole;
        draw();
      });
    }
    draw();
  }

  document.querySelectorAll(".tree").forEach(tree);
})();
