/* Follow a run: every two seconds the parts of the page that changed are put in place anew. */
(() => {
  const PERIOD = 2000;
  const parts = [...document.querySelectorAll("[data-part]")];
  const shown = new Map();
  const chosen = new Map(); // the step that a slider was moved to, by stage

  /* Samples over steps; a picture is fetched when the slider first comes to it. */
  function enhanceStrips(figure) {
    const { stage, steps, pictures } = JSON.parse(figure.dataset.strips);
    const image = figure.querySelector("img"), caption = figure.querySelector("figcaption");
    if (steps.length < 2) return;
    const slider = document.createElement("input");
    slider.type = "range";
    slider.min = 0;
    slider.max = steps.length - 1;
    slider.setAttribute("aria-label", `step of the samples of stage ${stage}`);
    const earlier = steps.indexOf(chosen.get(stage));
    slider.value = earlier < 0 ? steps.length - 1 : earlier;
    async function show() {
      const step = steps[slider.value];
      slider.setAttribute("aria-valuetext", `step ${step}`);
      caption.textContent = `step ${step}`;
      if (!pictures[step]) {
        try {
          const answer = await fetch(`/strip?stage=${stage}&step=${step}`);
          if (answer.ok) pictures[step] = await answer.text();
        } catch { return; }
      }
      if (steps[slider.value] !== step || !pictures[step]) return; // moved on meanwhile
      image.src = pictures[step];
      image.alt = `samples of stage ${stage} at step ${step}`;
    }
    slider.addEventListener("input", () => {
      const step = steps[slider.value];
      if (Number(slider.value) === steps.length - 1) chosen.delete(stage); // follow the newest
      else chosen.set(stage, step);
      show();
    });
    image.after(slider);
    if (earlier >= 0) show();
  }

  function enhance(root) {
    root.querySelectorAll("figure.strips").forEach(enhanceStrips);
  }

  /* Somebody reads a value or moves a slider just now. */
  const busy = (part) => part.querySelector(".tip:not([hidden])") || part.querySelector("input:active");

  function put(part, html) {
    const focused = part.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    part.innerHTML = html;
    gearPage.enhance(part);
    enhance(part);
    if (focused) part.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    shown.set(part.id, html);
  }

  async function refresh(link) {
    try {
      const answer = await fetch("/state", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const { fragments, time } = await answer.json();
      for (const part of parts)
        if (fragments[part.id] !== shown.get(part.id) && !busy(part)) put(part, fragments[part.id]);
      link.textContent = `As of ${time}; this page follows the run.`;
      link.classList.remove("lost");
    } catch {
      link.textContent = "No answer: gear watch has ended. The page shows what it last said.";
      link.classList.add("lost");
    }
    setTimeout(refresh, PERIOD, link);
  }

  enhance(document);
  if (parts.length) refresh(document.getElementById("link"));
})();
