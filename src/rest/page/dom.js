// Small helpers for the document: nothing of a response is ever parsed as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; `class`, `data-*` and `aria-*` become attributes. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.includes("-") && key !== "list") element[key] = value;
    else element.setAttribute(key === "class" ? "class" : key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Calls `run` once the calls have paused. */
export function debounce(run, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  };
}

/** What the browser remembers: only the language and the theme, and nothing where storage is off. */
export const remembered = {
  get(key) {
    try {
      return localStorage.getItem(`siglip-${key}`);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`siglip-${key}`, value);
    } catch {
      // The choice holds for this page then.
    }
  },
};

/** What other modules listen to: `model`, `images`, `selection`, `texts`, `view`, `language`, `traced`. */
export const bus = new EventTarget();
export const tell = (name) => bus.dispatchEvent(new Event(name));
export const on = (names, run) => {
  for (const name of names.split(" ")) bus.addEventListener(name, run);
};
