"use strict";
// Shows the values nearest to the pointer. Text is set as textContent, never as HTML.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const format = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
  const place = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

  function nearest(values, x) {
    let best = 0;
    values.forEach((value, i) => {
      if (Math.abs(value - x) < Math.abs(values[best] - x)) best = i;
    });
    return best;
  }

  for (const plot of document.querySelectorAll(".plot")) {
    const source = plot.querySelector("script[type='application/json']");
    const series = source ? JSON.parse(source.textContent) : [];
    if (!series.length) continue;
    for (const canvas of plot.querySelectorAll(".canvas")) {
      const [left, right, low, high] = JSON.parse(canvas.dataset.axes);
      const cross = document.createElement("div");
      cross.className = "cross";
      cross.hidden = true;
      canvas.append(cross);
      const hide = () => { tip.hidden = cross.hidden = true; };
      canvas.addEventListener("pointerleave", hide);
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect();
        const at = (event.clientX - box.left) / box.width;
        if (at < left || at > right) return hide();
        const x = low + ((at - left) / (right - left)) * (high - low);
        const head = document.createElement("div");
        head.textContent = `${place.format(x)} ${plot.dataset.unit}`;
        const lines = series.filter((s) => s.x.length).map((s) => {
          const line = document.createElement("div");
          const i = nearest(s.x, x);
          line.textContent = `${s.name} ${format.format(s.y[i])} (at ${place.format(s.x[i])})`;
          line.style.borderLeft = `4px solid ${s.colour}`;
          line.style.paddingLeft = "6px";
          return line;
        });
        tip.replaceChildren(head, ...lines);
        tip.hidden = cross.hidden = false;
        cross.style.left = `${100 * at}%`;
        const size = tip.getBoundingClientRect();
        tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - size.width - 4))}px`;
        tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - size.height - 4))}px`;
      });
    }
  }
})();
