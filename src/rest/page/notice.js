// Failures, said where the user looks, with what helps: a key, a pause, another try.

import { address } from "./api.js";
import { $, make } from "./dom.js";
import { t } from "./words.js";

const MOST_RETRIES = 3;
let timer = 0;
let retries = 0;
// Whether what stands there is a failure: an answer that comes after it takes it away, and other words stay.
let isFailure = false;

export function settle() {
  retries = 0;
  clearFailure();
}

export function clearFailure() {
  if (isFailure) clearNotice();
}

export function clearNotice() {
  clearInterval(timer);
  $("notice").hidden = true;
  $("notice").replaceChildren();
}

export function say(title, text = "", ...more) {
  clearInterval(timer);
  isFailure = false;
  $("notice").replaceChildren(make("strong", {}, title), text ? make("p", {}, text) : "", ...more);
  $("notice").hidden = false;
}

/** Shows a failure. Where the server asks for patience, `again` is called after the time that it names. */
export function fail(error, again) {
  if (error.name === "AbortError") return;
  if (error.status === undefined) {
    console.error(error);
  }
  const known = [0, 401, 413, 415, 422, 429, 503, 504].includes(error.status);
  const title = t(known ? `e_${error.status}` : "e_other");
  const place = error.field ? `${error.field}: ` : "";
  const text = error.message ? `${place}${error.message}` : "";
  if (error.status === 401) {
    document.dispatchEvent(new Event("key-wanted"));
    say(title, text);
    isFailure = true;
    return;
  }
  // Cause and remedy of every code stand on the server's own page.
  const explained = error.code ? make("a", { href: address(`docs/errors#${error.code}`) }, t("what_helps")) : "";
  const button = make("button", { type: "button", class: "quiet small", onclick: now }, t("retry"));
  say(title, text, explained, button);
  isFailure = true;
  if (![429, 503].includes(error.status) || retries >= MOST_RETRIES) return;

  retries += 1;
  let seconds = Math.max(1, Math.ceil(error.retry ?? 2));
  const left = make("span", { class: "soft num" }, t("retry_in", { n: seconds }));
  button.before(left);
  timer = setInterval(() => {
    seconds -= 1;
    left.textContent = t("retry_in", { n: seconds });
    if (seconds <= 0) now();
  }, 1000);

  function now() {
    clearNotice();
    again();
  }
}
