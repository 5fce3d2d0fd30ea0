// Keyboard and screen reader help for the rating page. Plain Gradio gives each radio button of a scale a name of its
// own, so that arrow keys cannot move between them, and it shows no change of item to a screen reader.
(() => {
  const scales = () => [...document.querySelectorAll("#satisfaction, #goal_achievement")];
  let position = null;

  // Only what differs is set: every change calls the observer below again.
  const set = (element, name, value) => {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  };

  function mend() {
    for (const scale of scales()) {
      const caption = scale.querySelector("[data-testid=block-info]");
      if (caption) {
        set(caption, "id", scale.id + "-caption");
        set(scale, "role", "radiogroup");
        set(scale, "aria-labelledby", caption.id);
        set(scale, "aria-description", scale.querySelector(".info-text")?.textContent ?? "");
      }
      for (const input of scale.querySelectorAll("input")) set(input, "name", scale.id);
    }
    const note = document.querySelector("#note");
    if (note) set(note, "aria-live", "assertive");
    for (const link of document.querySelectorAll("#item a, #hint a")) link.removeAttribute("target");
    const item = document.querySelector("#item section.viva");
    if (item && item.className !== position) {
      const first = position === null;
      position = item.className; // "viva at-7"
      if (!first) {
        window.scrollTo(0, 0);
        const heading = item.querySelector("h1");
        heading.tabIndex = -1;
        heading.focus({ preventScroll: true });
      }
    }
  }

  // At once, not in the next frame: Gradio names a button anew whenever it is chosen, and the next arrow key may follow
  // within that frame.
  new MutationObserver(mend).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributeFilter: ["class", "name", "target"],
  });

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    const save = document.querySelector("#save");
    const enter = event.key === "Enter" && !event.isComposing;
    if (event.altKey || event.metaKey || event.shiftKey) return;
    if (target.matches("textarea, input:not([type=radio])")) {
      if (enter && event.ctrlKey && save) save.click(); // in the comment, Enter alone is a new line
      return;
    }
    if (enter && save && !target.closest("button, a")) {
      event.preventDefault();
      save.click();
    } else if (/^[1-5]$/.test(event.key) && !event.ctrlKey) {
      const open = scales().find((scale) => !scale.querySelector("input:checked"));
      const scale = target.closest("#satisfaction, #goal_achievement") || open;
      if (scale) scale.querySelectorAll("input")[event.key - 1].click();
    }
  });
})();
