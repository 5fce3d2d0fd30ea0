// Keyboard, screen reader and drafts for the rating page. Plain Gradio gives each radio button of a scale a name of its
// own, so that arrow keys cannot move between them; it shows no change of item to a screen reader; and when the
// connection breaks it loads the page anew, with nothing of what was typed.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const seen = (element) => Boolean(element && element.getClientRects().length);
  const scales = () => all(".scale").filter(seen);
  const item = () => $("#item section.viva");
  const on = (name) => Boolean(item()?.classList.contains(name));
  const answering = () => Boolean($("#live .on-its-way"));

  // Only what differs is set: every change calls the observer below again.
  const set = (element, name, value) => {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  };

  // ---------------------------------------------------------------- for screen readers

  const said = document.createElement("div");
  said.id = "viva-said";
  said.setAttribute("role", "status");

  function mendScales() {
    for (const scale of all(".scale")) {
      const caption = $("[data-testid=block-info]", scale);
      if (caption) {
        set(caption, "id", scale.id + "-caption");
        const heading = $("h2", scale.closest(".place") ?? scale);
        if (heading) set(heading, "id", scale.closest(".place").id + "-heading");
        set(scale, "role", "radiogroup");
        set(scale, "aria-labelledby", (heading ? heading.id + " " : "") + caption.id);
        const ends = $(".info-text", scale)?.textContent;
        if (ends) set(scale, "aria-description", ends);
      }
      for (const input of all("input", scale)) set(input, "name", scale.id);
    }
    for (const note of all("#note, #thanks")) set(note, "aria-live", "assertive");
    for (const link of all("#item a, #hint a")) link.removeAttribute("target");
    const box = $("#say textarea");
    if (box && box.readOnly !== answering()) box.readOnly = answering();
    if (document.body && !said.parentNode) document.body.append(said);
  }

  // ---------------------------------------------------------------- what is shown now

  let shown = null; // position, whether it can be rated, whether its feedback is there
  let waited = false; // for an answer

  function follow() {
    const section = item();
    if (!section) return;
    const language = [...section.classList].find((name) => name.startsWith("lang-"));
    if (language) set(document.documentElement, "lang", language.slice(5));
    if (section.classList.contains("elsewhere")) {
      const way = $("a", section);
      if (way && shown !== "elsewhere") location.replace(way.href);
      shown = "elsewhere";
      return;
    }
    const now = [position(), on("rateable"), on("answered")].join();
    if (now !== shown) {
      const [before, first] = [shown, shown === null];
      shown = now;
      if (first && location.search) history.replaceState(null, "", location.pathname); // ?at=7 was for this once
      if (saving && saving !== position()) forget(saving);
      saving = null;
      setTimeout(restore, 60); // once Gradio has filled in what is stored
      if (!first) arrive(String(before).split(",")[0] === position());
    }
    const waits = answering() || on("pending");
    if (waits !== waited) {
      waited = waits;
      if (waits) forget(position(), "say"); // it is stored
      else announce();
    }
    if (answering()) keepInView();
  }

  function arrive(sameItem) {
    if (sameItem && on("rateable") && !on("answered")) return $("#marks-1 input")?.focus(); // the chat has ended
    window.scrollTo(0, 0);
    const heading = $("h1", item());
    if (!heading) return;
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }

  function announce() {
    said.textContent = $("#chat-1 li.assistant:last-child")?.innerText ?? "";
    if (on("writing") && document.activeElement === document.body) $("#say textarea")?.focus({ preventScroll: true });
  }

  function keepInView() {
    const below = $("#live").getBoundingClientRect().bottom - window.innerHeight;
    if (below > -20 && below < 240) window.scrollBy(0, below + 40); // who has scrolled up wants to read there
  }

  // ---------------------------------------------------------------- drafts: what is typed and not saved yet

  const position = () => [...(item()?.classList ?? [])].find((name) => name.startsWith("at-"));
  const keyOf = (place) => ["viva", window.gradio_config?.username ?? "", place].join(":");
  let saving = null;

  function drafts(place) {
    try {
      return JSON.parse(sessionStorage.getItem(keyOf(place))) ?? {};
    } catch {
      return {};
    }
  }

  function keep(place, values) {
    try {
      if (Object.keys(values).length) sessionStorage.setItem(keyOf(place), JSON.stringify(values));
      else sessionStorage.removeItem(keyOf(place));
    } catch {} // no storage: drafts do not outlive the page
  }

  function forget(place, name) {
    const values = drafts(place);
    if (name) delete values[name];
    keep(place, name ? values : {});
  }

  function note(event) {
    const field = event.target.closest?.(".scale, .comment, #say");
    if (!field || !position()) return;
    const value = event.target.type === "radio" ? all("input", field).indexOf(event.target) : event.target.value;
    keep(position(), { ...drafts(position()), [field.id]: value });
  }

  function restore() {
    for (const [id, value] of Object.entries(drafts(position()))) {
      const field = document.getElementById(id);
      if (!seen(field)) continue;
      const box = $("textarea", field);
      if (!box) all("input", field)[value]?.click();
      else if (box.value !== value) {
        box.value = value;
        box.dispatchEvent(new Event("input", { bubbles: true }));
      }
    }
  }

  document.addEventListener("input", note, true);
  document.addEventListener("change", note, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#save")) saving = position();
  }, true);

  // ---------------------------------------------------------------- keys

  function press(selector) {
    const button = all(selector).find(seen);
    button?.click();
    return Boolean(button);
  }

  function mark(target, number) {
    const open = () => scales().find((scale) => !$("input:checked", scale));
    const scale = target.closest(".scale") ?? open();
    const choice = scale && all("input", scale)[number - 1];
    if (!choice) return;
    choice.click();
    if (scale.contains(target)) $("input", open() ?? scale)?.focus(); // on to the next question
  }

  function step(way) {
    const headings = all(".place h2").filter(seen);
    const here = headings.findIndex((heading) => heading.closest(".place").contains(document.activeElement));
    const next = headings[Math.min(Math.max(here + way, 0), headings.length - 1)];
    if (!next) return false;
    next.tabIndex = -1;
    next.focus();
    next.scrollIntoView({ block: "nearest" });
    return true;
  }

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    const enter = event.key === "Enter" && !event.isComposing;
    if (event.altKey || event.metaKey || !target.matches) return;
    if (target.matches("textarea, input:not([type=radio])")) {
      if (!enter) return;
      if (target.closest("#say")) {
        if (event.shiftKey) return; // a new line
        event.preventDefault();
        if (!answering()) press("#send");
      } else if (event.ctrlKey) press(target.closest("#problem") ? "#report" : "#save, #next"); // Enter is a new line
      return;
    }
    if (event.shiftKey) return;
    if (enter && !target.closest("button, a")) {
      if (press("#save, #next")) event.preventDefault();
    } else if (/^[1-5]$/.test(event.key) && !event.ctrlKey) {
      mark(target, Number(event.key));
    } else if (/^Arrow(Left|Right)$/.test(event.key) && !target.matches("input, button")) {
      if (step(event.key === "ArrowRight" ? 1 : -1)) event.preventDefault();
    }
  });

  // At once, not in the next frame: Gradio names a button anew whenever it is chosen, and the next arrow key may follow
  // within that frame.
  new MutationObserver(() => {
    mendScales();
    follow();
  }).observe(document.documentElement, {
    childList: true,
    subtree: true,
    characterData: true,
    attributeFilter: ["class", "name", "target"],
  });
})();
