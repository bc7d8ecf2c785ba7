// Making elements and bringing what is shown in line with them. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `props` are attributes, save `style`, an object of properties; false and null leave one out.
 * Children are nodes, text, or arrays of them; false and null are left out.
 */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An element of SVG. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** Text that only screen readers say. */
export function spoken(text) {
  return h("span", { class: "spoken" }, text);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "style") {
      for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child === false || child === null || child === undefined) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/**
 * Makes `place` contain `children`, changing only what differs: focus, selection and what is folded out stay.
 * Elements with the same `data-key` are taken to be the same.
 */
export function show(place, ...children) {
  patchChildren(place, fill(document.createDocumentFragment(), null, children));
}

function patchChildren(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) {
    if (child.dataset?.key !== undefined) keyed.set(child.dataset.key, child);
  }
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = wanted.dataset?.key;
    const known = key === undefined ? at : keyed.get(key);
    if (known && alike(known, wanted)) {
      if (known === at) at = at.nextSibling;
      else move(old, known, at);
      patch(known, wanted);
    } else {
      old.insertBefore(wanted, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Moving takes the focus away from what is moved. */
function move(parent, child, before) {
  const focused = child.contains(document.activeElement) ? document.activeElement : null;
  parent.insertBefore(child, before);
  focused?.focus({ preventScroll: true });
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
}

function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  patchAttributes(old, fresh);
  patchChildren(old, fresh);
}

function patchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !theirs(old, name)) old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (theirs(old, name) || old.getAttribute(name) === value) continue;
    // The policy of this page forbids the attribute, and allows the properties.
    if (name === "style") old.style.cssText = fresh.style.cssText;
    else old.setAttribute(name, value);
  }
}

/** What the reader decides. */
function theirs(element, name) {
  return element.nodeName === "DETAILS" && name === "open";
}
