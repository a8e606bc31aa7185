// Scores and how they are written.

export const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

export function softmax(logits) {
  const most = Math.max(...logits);
  const raised = logits.map((logit) => Math.exp(logit - most));
  const sum = raised.reduce((total, value) => total + value, 0);
  return raised.map((value) => value / sum);
}

/** A share in percent that is never rounded to a certainty. */
export function percent(share) {
  if (share < 0.0001) return "< 0.01 %";
  if (share < 0.01) return `${(share * 100).toFixed(2)} %`;
  if (share > 0.999) return "> 99.9 %";
  return `${(share * 100).toFixed(1)} %`;
}

/** A number with its sign, aligned with its neighbours. */
export function signed(value, digits) {
  return value.toFixed(digits).replace("-", "\u2212");
}

export function milliseconds(value) {
  return value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function count(value) {
  return value.toLocaleString("en-US").replaceAll(",", "\u202f");
}

/** The threshold slider in steps of the logit, so that small probabilities have room; 0 is no threshold. */
export function threshold(step) {
  return step === 0 ? null : sigmoid(-9 + (step / 200) * 14);
}

/** The values of an embedding in base64. */
export function vector(text) {
  const raw = atob(text);
  const held = new Uint8Array(raw.length);
  for (let index = 0; index < raw.length; index += 1) held[index] = raw.charCodeAt(index);
  const view = new DataView(held.buffer);
  return Float32Array.from({ length: raw.length / 4 }, (_, index) => view.getFloat32(index * 4, true));
}

/** The cosine of two vectors of length 1. */
export function dot(left, right) {
  let sum = 0;
  for (let index = 0; index < left.length; index += 1) sum += left[index] * right[index];
  return sum;
}
