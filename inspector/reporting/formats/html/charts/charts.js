"use strict";
// What pointing at a mark shows, and frames that arrow keys scroll.
(() => {
  for (const frame of document.querySelectorAll(".frame")) {
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", frame.closest("figure").getAttribute("aria-label"));
  }
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const { innerWidth, innerHeight } = window;
    const { offsetWidth, offsetHeight } = tip;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - offsetHeight - 4)}px`;
  });
})();
